"""The pod of this node: init units in order, then the others side by side; updates unit by unit; stop for good.

Decides which units run; how one is run is ``unit``'s. Tells every change through ``on_change``.
"""

import asyncio
import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from milpa_ray.api.pod import PodSpec, RestartPolicy, Unit, UnitState, UnitStatus, UnitWaiting
from milpa_ray.api.quantity import to_bytes
from milpa_ray.ports import DesiredPod
from nodeagent.commands import CommandFailed
from nodeagent.images import Image
from nodeagent.node import set_sysctls, write_etc
from nodeagent.oci_spec import NodeFacts, UnitImage, network_sysctls, runtime_config
from nodeagent.unit import UnitRunner, UnitTools
from nodeagent.volumes import make_volume, unmount_volumes

log = logging.getLogger("nodeagent.pod")

RETIRE_GRACE_S = 30.0
"""Grace for units that an update removes or changes."""
PULLS_IN_FLIGHT = 4


class PodRunner:
    """Runs one pod. Build it, ``apply`` what is desired, and again for each newer generation."""

    def __init__(self, tools: UnitTools, node: NodeFacts, on_change: Callable[[], None]) -> None:
        self._tools = tools
        self._node = node
        self._on_change = on_change
        self._desired: DesiredPod | None = None
        self._runners: dict[str, UnitRunner] = {}
        self._tasks: dict[UnitRunner, asyncio.Task[None]] = {}
        self._volumes: Mapping[str, Path] = {}
        self._pulls = asyncio.Semaphore(PULLS_IN_FLIGHT)
        self._failure = ""
        self._driver: asyncio.Task[None] | None = None
        self._stopping: asyncio.Task[None] | None = None

    # ------------------------------------------------------------ what the agent calls

    def apply(self, desired: DesiredPod) -> None:
        """Makes ``desired`` come about, keeping unchanged units as they run. Returns at once."""
        if self._stopping is not None:
            return
        previous, self._driver = self._driver, None
        self._desired = desired
        self._failure = ""
        self._driver = asyncio.create_task(self._drive(desired, previous))
        self.changed()

    async def stop(self, desired: DesiredPod, grace_s: float) -> None:
        """Stops all units for good; returns when none runs any more. Later calls wait for the same end."""
        if self._stopping is None:
            self._desired = desired
            self._stopping = asyncio.create_task(self._stop_all(desired, grace_s))
        await asyncio.shield(self._stopping)

    async def close(self) -> None:
        """Lets go of the units, which run on; for the end of the agent itself."""
        for task in (self._driver, self._stopping, *self._tasks.values()):
            await _cancel(task)

    def statuses(self) -> tuple[Sequence[UnitStatus], Sequence[UnitStatus]]:
        """Of the units and of the init units, in the manifest's order."""
        if self._desired is None:
            return (), ()
        spec = self._desired.pod.spec
        return (
            tuple(self._status(unit, init=False) for unit in spec.units),
            tuple(self._status(unit, init=True) for unit in spec.init_units),
        )

    def runner(self, unit_name: str) -> UnitRunner | None:
        return self._runners.get(_slot(unit_name, init=False)) or self._runners.get(_slot(unit_name, init=True))

    def has_ended(self, unit_name: str) -> bool:
        """The unit will write nothing any more. One that an update is just replacing will."""
        runner = self.runner(unit_name)
        if self._stopping is None and self._desired is not None:
            spec = self._desired.pod.spec
            if unit_name not in [unit.name for unit in (*spec.units, *spec.init_units)]:
                return runner is None
            if runner is None or runner.stopping:
                return False
        return runner is None or runner.settled

    def runners(self) -> Sequence[UnitRunner]:
        return tuple(self._runners.values())

    # ------------------------------------------------------------ what units call (PodContext)

    def changed(self) -> None:
        self._on_change()

    def config_for(self, unit: Unit, image: UnitImage, cid: str) -> dict[str, Any]:
        return runtime_config(unit, self._spec, image, self._node, self._volumes, cid)

    async def pull(self, unit: Unit) -> Image:
        logins = self._desired.logins if self._desired else ()
        async with self._pulls:
            return await self._tools.images.pull(unit.image, logins)

    # ------------------------------------------------------------ the course of things

    @property
    def _spec(self) -> PodSpec:
        if self._desired is None:
            raise RuntimeError("no pod was applied")
        return self._desired.pod.spec

    async def _drive(self, desired: DesiredPod, previous: asyncio.Task[None] | None) -> None:
        await _cancel(previous)
        spec = desired.pod.spec
        await self._retire(spec)
        for init, units in ((True, spec.init_units), (False, spec.units)):
            for unit in units:
                self._runners.setdefault(_slot(unit.name, init=init), self._new_runner(unit, init=init))
        try:
            await self._prepare(desired)
        except (CommandFailed, ValueError) as error:
            log.error("the pod cannot be started: %s", error)
            self._failure = f"StartError: {error}"
            self.changed()
            return
        if await self._run_init_units(spec):
            for unit in spec.units:
                self._launch(self._runners[_slot(unit.name, init=False)], spec.restart_policy)

    async def _prepare(self, desired: DesiredPod) -> None:
        self._tools.images.trust(desired.insecure_registries)
        write_etc(self._node.etc, desired.dns_servers, desired.dns_search)
        set_sysctls(network_sysctls(desired.pod.spec))
        await self._make_room(desired.pod.spec.resources.volume_size)
        self._volumes = {item.name: await make_volume(item, self._tools.dirs) for item in desired.pod.spec.volumes}

    async def _make_room(self, size: str) -> None:
        """Lets the pod have all of the root volume. Should that fail it starts all the same: it may never need the
        room, and a unit that does will say so."""
        if self._tools.root is None:
            if size:
                log.info("volumeSize %s: this node has no disk of its own, its room is the machine's", size)
            return
        try:
            await self._tools.root.make_room(to_bytes(size))
        except CommandFailed as error:
            log.error("the root file system was not grown (volumeSize %s): %s", size or "not given", error)

    async def _run_init_units(self, spec: PodSpec) -> bool:
        """Whether all have succeeded. Units that run already (an update) do not wait for a finished init unit."""
        for unit in spec.init_units:
            runner = self._runners[_slot(unit.name, init=True)]
            if not runner.succeeded:
                self._tell_waiting(spec, f"waiting for init unit {unit.name}")
                await asyncio.wait([self._launch(runner, spec.restart_policy)])
            if not runner.succeeded:
                self._tell_waiting(spec, f"init unit {unit.name} did not succeed")
                return False
        return True

    def _tell_waiting(self, spec: PodSpec, reason: str) -> None:
        for unit in spec.units:
            self._runners[_slot(unit.name, init=False)].wait_for(f"PodInitializing: {reason}")

    def _launch(self, runner: UnitRunner, policy: RestartPolicy) -> asyncio.Task[None]:
        task = self._tasks.get(runner)
        if task is None or task.done():
            task = self._tasks[runner] = asyncio.create_task(runner.run(policy))
            task.add_done_callback(_report_crash)
        return task

    async def _retire(self, spec: PodSpec) -> None:
        """Stops units that the pod does not have any more, or has in another version; also those that a killed agent
        left so."""
        wanted = {_slot(unit.name, init=False): self._key(unit, spec) for unit in spec.units}
        wanted |= {_slot(unit.name, init=True): self._key(unit, spec) for unit in spec.init_units}
        leaving = {s: r for s, r in self._runners.items() if r.stopping or wanted.get(s) != r.key}
        leaving |= self._leftovers(wanted)
        for runner in leaving.values():
            log.info("unit %s: its description changed or is gone, stopping it", runner.unit.name)
        await self._end(list(leaving.values()), RETIRE_GRACE_S)
        for slot, runner in leaving.items():
            await runner.forget()
            self._tasks.pop(runner, None)
            self._runners.pop(slot, None)

    def _leftovers(self, wanted: Mapping[str, str]) -> dict[str, UnitRunner]:
        found = {}
        for path in self._tools.dirs.units.iterdir():
            if path.name not in self._runners:
                runner = UnitRunner.from_disk(path.name, self, self._tools)
                if runner is not None and wanted.get(path.name) != runner.key:
                    found[path.name] = runner
        return found

    async def _end(self, runners: Sequence[UnitRunner], grace_s: float) -> None:
        for runner in runners:
            runner.stop(grace_s)
        tasks = [self._launch(runner, RestartPolicy.NEVER) for runner in runners]
        if tasks:
            await asyncio.wait(tasks)
        for task in tasks:
            task.result()

    async def _stop_all(self, desired: DesiredPod, grace_s: float) -> None:
        await _cancel(self._driver)
        spec = desired.pod.spec
        for init, units in ((True, spec.init_units), (False, spec.units)):
            for unit in units:
                slot = _slot(unit.name, init=init)
                if slot not in self._runners:
                    self._runners[slot] = UnitRunner.from_disk(slot, self, self._tools) or self._new_runner(
                        unit, init=init
                    )
        await self._end([*self._runners.values(), *self._leftovers({}).values()], grace_s)
        await unmount_volumes(self._tools.dirs)
        self.changed()

    # ------------------------------------------------------------ small things

    def _new_runner(self, unit: Unit, *, init: bool) -> UnitRunner:
        return UnitRunner(unit, self._key(unit, self._spec), self, self._tools, init=init)

    @staticmethod
    def _key(unit: Unit, spec: PodSpec) -> str:
        """Changes when the unit must be restarted: all of its description but the ports, which only a firewall
        reads, and what it uses of the pod's."""
        names = {mount.name for mount in unit.volume_mounts}
        parts = [unit.model_copy(update={"ports": ()}), *(item for item in spec.volumes if item.name in names)]
        parts += [spec.security_context] if spec.security_context else []
        # Defaults are left out, or the next version's new field would restart every unit.
        text = "\n".join(part.model_dump_json(exclude_defaults=True) for part in parts)
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def _status(self, unit: Unit, *, init: bool) -> UnitStatus:
        runner = self._runners.get(_slot(unit.name, init=init))
        if runner is not None and (self._stopping is not None or runner.key == self._key(unit, self._spec)):
            status = runner.status()
            if not self._failure or status.state.waiting is None:
                return status
        waiting = UnitWaiting(reason=self._failure or "PodInitializing", start_failure=bool(self._failure))
        return UnitStatus(name=unit.name, image=unit.image, state=UnitState(waiting=waiting))


def _slot(unit_name: str, *, init: bool) -> str:
    return f"{'init' if init else 'unit'}-{unit_name}"


async def _cancel(task: asyncio.Task[None] | None) -> None:
    if task is not None and not task.done():
        task.cancel()
        await asyncio.wait([task])


def _report_crash(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        log.error("a unit's runner broke", exc_info=task.exception())
