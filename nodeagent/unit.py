"""One unit: pulled, started, awaited, restarted with back-off, stopped. Its progress is on disk before each step, so
that a new agent goes on where a killed one was.

Invariants: at most one container of a unit exists at a time; a unit that is done, or was asked to stop, is never
started again by the same runner.
"""

import asyncio
import logging
from collections.abc import Awaitable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol, TypeVar

from milpa_ray.api.pod import RestartPolicy, Unit, UnitRunning, UnitState, UnitStatus, UnitTerminated, UnitWaiting
from milpa_ray.clock import Clock
from nodeagent.bundle import make_bundle, remove_bundle
from nodeagent.commands import CommandFailed
from nodeagent.images import Image, ImageError, ImageStore
from nodeagent.oci_spec import SpecError, UnitImage
from nodeagent.records import UnitRecord, load_unit, save_unit
from nodeagent.root_volume import RootVolume
from nodeagent.runtime import Container, Exit, Runtime, StartError
from nodeagent.state_dir import StateDir

log = logging.getLogger("nodeagent.unit")
T = TypeVar("T")

START_RETRY_AFTER_S = (1.0, 2.0)
KILL_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class BackOff:
    """Pauses between restarts: ``first_s``, doubled up to ``max_s``, back to the first after ``reset_after_s`` of
    running."""

    first_s: float = 10.0
    max_s: float = 300.0
    reset_after_s: float = 600.0

    def pause_s(self, step: int) -> float:
        return min(self.max_s, self.first_s * 2.0 ** min(step, 30))


class PodContext(Protocol):
    """What a unit needs of its pod."""

    def config_for(self, unit: Unit, image: UnitImage, cid: str) -> dict[str, Any]: ...

    async def pull(self, unit: Unit) -> Image: ...

    def changed(self) -> None: ...


@dataclass(frozen=True, slots=True)
class UnitTools:
    """What all runners of an agent share. ``root`` is there when the node's disk is the pod's own."""

    dirs: StateDir
    runtime: Runtime
    images: ImageStore
    clock: Clock
    back_off: BackOff = BackOff()
    root: RootVolume | None = None


class _Stopped(Exception):
    """The unit was asked to stop while something was awaited."""


class UnitRunner:
    """Runs one version (``key``) of one unit. ``init``: it runs until it succeeds, once."""

    def __init__(self, unit: Unit, key: str, pod: PodContext, tools: UnitTools, *, init: bool = False) -> None:
        self.unit = unit
        self.key = key
        self.init = init
        self.failure = ""
        self._running_since = 0.0
        self._pod = pod
        self._tools = tools
        self._name = f"{'init' if init else 'unit'}-{unit.name}"
        self._home = tools.dirs.units / self._name
        self._path = self._home / "record.json"
        found = load_unit(self._path)
        self.record = found if found and found.key == key else UnitRecord(key, found.attempt if found else 0)
        self._waiting = "" if self.record.stage == "new" else "ContainerCreating"
        self._stop = asyncio.Event()
        self._grace_s = 0.0

    @classmethod
    def from_disk(cls, slot: str, pod: PodContext, tools: UnitTools) -> "UnitRunner | None":
        """The runner of a unit that only the disk knows any more, fit to be stopped; None if there is none."""
        record = load_unit(tools.dirs.units / slot / "record.json")
        kind, _, name = slot.partition("-")
        if record is None:
            return None
        return cls(Unit(name=name, image=""), record.key, pod, tools, init=kind == "init")

    # ------------------------------------------------------------ what others see

    @property
    def done(self) -> bool:
        return self.record.done

    @property
    def succeeded(self) -> bool:
        return self.record.done and self.record.exit_code == 0

    @property
    def stopping(self) -> bool:
        """It was asked to stop and never starts again."""
        return self._stop.is_set()

    @property
    def settled(self) -> bool:
        """No container of it runs or will run by itself."""
        return self.record.done or bool(self.failure)

    def status(self) -> UnitStatus:
        record = self.record
        ended = self._termination() if record.stage == "ended" and not record.done else record.last
        last = UnitState(terminated=UnitTerminated(**ended)) if ended else None
        return UnitStatus(
            name=self.unit.name,
            image=self.unit.image,
            restart_count=record.restarts,
            state=self._state(),
            last_state=last,
        )

    def _state(self) -> UnitState:
        record = self.record
        if self.failure:
            return UnitState(waiting=UnitWaiting(reason=self.failure, start_failure=True))
        if record.done:
            return UnitState(terminated=UnitTerminated(**self._termination()))
        if record.stage == "running":
            return UnitState(running=UnitRunning(started_at=datetime.fromisoformat(record.started_at)))
        return UnitState(waiting=UnitWaiting(reason=self._waiting or "PodInitializing"))

    def _termination(self) -> dict[str, Any]:
        record = self.record
        return {"exit_code": record.exit_code, "reason": record.reason, "finished_at": record.finished_at or None}

    def wait_for(self, reason: str) -> None:
        """Tells what a unit that has not begun waits for."""
        if self.record.stage == "new" and self._waiting != reason:
            self._waiting = reason
            self._pod.changed()

    # ------------------------------------------------------------ life

    async def run(self, policy: RestartPolicy) -> None:
        """Returns when the unit is done for good, cannot be started (``failure`` says why), or was stopped."""
        self.failure = ""
        try:
            container = await self._adopt()
            while not self.record.done:
                if container is None:
                    container = await self._start()
                ended = await self._await_end(container)
                await self._clean_up(container)
                self._record_end(ended, done=not self._again(ended, policy))
                container = None
        except _Stopped:
            self._save(stage="ended", done=True, reason=self.record.reason or "Stopped")
        except (ImageError, SpecError, StartError, CommandFailed) as error:
            kind = "ErrImagePull" if isinstance(error, ImageError) else "StartError"
            self.failure = f"{kind}: {error}"
            log.error("unit %s cannot be started: %s", self.unit.name, error)
            self._pod.changed()

    def stop(self, grace_s: float) -> None:
        """Asks the runner to stop; its ``run`` (which must be running, or be called) returns when nothing of the unit
        runs any more."""
        self._grace_s = grace_s
        self._stop.set()

    async def forget(self) -> None:
        """Removes what is on disk, for a unit that has left the pod. Its log stays."""
        await remove_bundle(self._bundle)
        self._path.unlink(missing_ok=True)

    async def _adopt(self) -> Container | None:
        if self.record.stage not in ("starting", "running"):
            return None
        found = await self._tools.runtime.find(self._cid, self._bundle)
        if isinstance(found, Container):
            log.info("unit %s: adopted container %s", self.unit.name, self._cid)
            self._now_running(adopted=True)
            return found
        if found is None and self.record.stage == "starting":
            await self._tools.runtime.delete(self._cid)
            return None
        log.info("unit %s: container %s ended while no agent was there", self.unit.name, self._cid)
        container = Container(self._tools.runtime, self._cid, self._bundle)
        self._save(stage="running", started_at=self.record.started_at or _text(self._tools.clock.now()))
        return container

    async def _start(self) -> Container:
        self._raise_if_stopped()
        if self.record.stage == "ended":
            await self._back_off()
        image = await self._image()
        for pause in (*START_RETRY_AFTER_S, None):
            self._raise_if_stopped()
            try:
                return await self._start_once(image)
            except StartError as error:
                if error.final or pause is None:
                    raise
                log.warning("unit %s: start failed, trying again: %s", self.unit.name, error)
                await self._unless_stopped(asyncio.sleep(pause))
        raise AssertionError("unreachable")

    async def _image(self) -> Image:
        found = self._tools.images.find(self.record.digest) if self.record.digest else None
        if found is None:
            self._tell("PullingImage")
            found = await self._unless_stopped(self._pod.pull(self.unit))
            self._save(digest=found.digest)
            log.info("unit %s: image %s is %s", self.unit.name, self.unit.image, found.digest)
        return found

    async def _start_once(self, image: Image) -> Container:
        self._tell("ContainerCreating")
        self._save(stage="starting", attempt=self.record.attempt + 1, started_at="", finished_at="")
        config = self._pod.config_for(self.unit, UnitImage(image.rootfs, image.config), self._cid)
        try:
            await make_bundle(self._bundle, image.rootfs, config)
            container = await self._tools.runtime.start(self._cid, self._bundle, self.log_path)
        except (StartError, CommandFailed):
            await remove_bundle(self._bundle)
            raise
        self._now_running(adopted=False)
        log.info("unit %s: started as %s", self.unit.name, self._cid)
        return container

    async def _await_end(self, container: Container) -> Exit:
        end = asyncio.ensure_future(container.wait())
        try:
            return await self._unless_stopped(asyncio.shield(end))
        except _Stopped:
            ended = await self._terminate(container, end)
            await self._clean_up(container)
            self._record_end(ended, done=True)
            raise
        finally:
            end.cancel()

    async def _terminate(self, container: Container, end: "asyncio.Future[Exit]") -> Exit:
        signal = self._stop_signal()
        log.info("unit %s: stopping with %s, grace %g s", self.unit.name, signal, self._grace_s)
        pause = self._grace_s
        while not end.done():
            try:
                await container.signal(signal if pause > 0 else "KILL")
            except CommandFailed as error:
                log.error("unit %s: %s", self.unit.name, error)
            await asyncio.wait([end], timeout=pause or KILL_TIMEOUT_S)
            pause = 0.0
        return await end

    def _stop_signal(self) -> str:
        image = self._tools.images.find(self.record.digest) if self.record.digest else None
        return str((image.config.get("StopSignal") if image else "") or "SIGTERM")

    async def _clean_up(self, container: Container) -> None:
        container.close()
        await self._tools.runtime.delete(self._cid)
        await remove_bundle(self._bundle)

    def _again(self, ended: Exit, policy: RestartPolicy) -> bool:
        if policy is RestartPolicy.NEVER:
            return False
        return ended.code != 0 or not (self.init or policy is RestartPolicy.ON_FAILURE)

    def _record_end(self, ended: Exit, *, done: bool) -> None:
        reason = "OOMKilled" if ended.oom else "Completed" if ended.code == 0 else "Error"
        if ended.code is None:
            reason = "ExitCodeUnknown"
        log.info("unit %s: ended, %s, exit code %s", self.unit.name, reason, ended.code)
        ran_s = self._tools.clock.monotonic() - self._running_since
        step = 0 if ran_s >= self._tools.back_off.reset_after_s else self.record.backoff_step
        finished = _text(self._tools.clock.now())
        # One write, so that no crash can part the end from what follows of it.
        self._save(
            stage="ended", exit_code=ended.code, reason=reason, finished_at=finished, backoff_step=step, done=done
        )

    async def _back_off(self) -> None:
        """The pause counts from the unit's end, also when the agent was started anew meanwhile."""
        step = self.record.backoff_step
        pause = self._tools.back_off.pause_s(step)
        code = "unknown" if self.record.exit_code is None else self.record.exit_code
        self._tell(f"CrashLoopBackOff: back-off {pause:g} s before the next start, exit code {code}")
        passed = self._tools.clock.now() - datetime.fromisoformat(self.record.finished_at)
        await self._unless_stopped(asyncio.sleep(min(pause, max(0.0, pause - passed.total_seconds()))))
        restarts = self.record.restarts + 1
        self._save(stage="new", last=self._termination(), backoff_step=step + 1, restarts=restarts)

    # ------------------------------------------------------------ small things

    @property
    def _cid(self) -> str:
        return f"{self._name}-{self.record.attempt}"

    @property
    def _bundle(self) -> Path:
        return self._home / str(self.record.attempt)

    @property
    def log_path(self) -> Path:
        return self._tools.dirs.log_file(self.unit.name)

    @property
    def control_pipe(self) -> Path | None:
        """conmon's control pipe while the unit runs."""
        return self._bundle / "ctl" if self.record.stage == "running" else None

    def _now_running(self, *, adopted: bool) -> None:
        now = self._tools.clock.now()
        started = datetime.fromisoformat(self.record.started_at) if adopted and self.record.started_at else now
        self._running_since = self._tools.clock.monotonic() - (now - started).total_seconds()
        self._save(stage="running", started_at=_text(started))

    def _tell(self, reason: str) -> None:
        self._waiting = reason
        self._pod.changed()

    def _save(self, **changes: Any) -> None:
        for name, value in changes.items():
            setattr(self.record, name, value)
        save_unit(self._path, self.record)
        self._pod.changed()

    def _raise_if_stopped(self) -> None:
        if self._stop.is_set():
            raise _Stopped

    async def _unless_stopped(self, work: Awaitable[T]) -> T:
        """The result of ``work``, which is cancelled when the unit is asked to stop.

        Raises:
            _Stopped: it was.
        """
        task = asyncio.ensure_future(work)
        stop = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait([task, stop], return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            raise _Stopped
        finally:
            stop.cancel()
            if not task.done():
                task.cancel()
                await asyncio.wait([task])


def _text(moment: datetime) -> str:
    return moment.isoformat()
