"""The instances of one local cloud: launching, watching, terminating and finding them again.

State machine: pending -> running -> shutting-down -> terminated; any living state may jump to shutting-down by itself
when the instance's PID 1 dies. Invariants:

- What is about to exist is on disk first: the record before the namespaces, the PID before its init is let go.
- An address belongs to one listed instance, terminated ones included, so none is reused while somebody may still
  remember it.
- Only the event loop's thread changes records; threads of the pool only start and kill processes.

Knows no gRPC; raises the errors of ``milpa_ray.errors``.
"""

import asyncio
import logging
import os
import subprocess
from collections.abc import Coroutine, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from cloud.local import machine
from cloud.local.admission import Admission, Offers, fingerprint
from cloud.local.boot import BOOTS_AT_A_TIME, AgentSettings, Booter
from cloud.local.faults import INTERRUPTION_NOTICE_S, Fault, FaultBook, FaultKind
from cloud.local.leftovers import control_group, remove_control_groups
from cloud.local.network import Network, NetworkError
from cloud.local.records import InstanceRecord, LaunchRecord, Records
from milpa_ray.clock import Clock
from milpa_ray.errors import LaunchRejected
from milpa_ray.ports import Instance, InstanceState, LaunchCall

log = logging.getLogger(__name__)

CLUSTER_TAG = "milpa-cluster"
CONSOLE_LIMIT_BYTES = 4 << 20
KILL_TIMEOUT_S = 10.0
TOKEN_MEMORY_S = 86_400.0
"""How long a launch token is remembered, as EC2 does at least."""


@dataclass(frozen=True, slots=True)
class FleetSettings:
    """``terminated_kept_s``: how long terminated instances stay listed."""

    region: str
    agent: AgentSettings
    boot_delay_s: float = 0.0
    max_instances: int = 250
    terminated_kept_s: float = 300.0


@dataclass(slots=True)
class _Watched:
    """What the event loop holds for one instance."""

    boot: asyncio.TimerHandle | None = None
    pidfd: int = -1
    ending: bool = False


class Fleet:
    """All instances below one directory. Build, ``restore()``, use, ``await close()``."""

    def __init__(
        self, records: Records, network: Network, settings: FleetSettings, offers: Offers, clock: Clock
    ) -> None:
        self.faults = FaultBook()
        self._records, self._network, self._settings, self._clock = records, network, settings, clock
        self._admission = Admission(
            settings.region, network, offers, settings.max_instances, settings.boot_delay_s, self.faults
        )
        self._pool = ThreadPoolExecutor(BOOTS_AT_A_TIME + 4, "instance")
        self._booter = Booter(records, network, settings.agent, self._pool)
        self._instances: dict[str, InstanceRecord] = {}
        self._launches: dict[str, LaunchRecord] = {}
        self._held: dict[str, _Watched] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._children: list[subprocess.Popen[bytes]] = []
        self._closing = False

    # ------------------------------------------------------------ launch

    def launch(self, call: LaunchCall) -> list[Instance]:
        """Records the launch and starts it in the background; idempotent by token.

        Raises:
            LaunchRejected, NoCapacity: as EC2 refuses.
        """
        known = self._launches.get(call.token)
        if known is not None:
            if known.fingerprint != fingerprint(call):
                raise LaunchRejected(
                    "IdempotentParameterMismatch", f"token {call.token} was used for a different launch before"
                )
            return [self._recall(known, index) for index in range(len(known.instance_ids))]
        now = self._clock.now().timestamp()
        made = self._admission.admit(call, list(self._instances.values()), now)
        launch = LaunchRecord(call.token, fingerprint(call), [record.id for record in made], now)
        for record in made:
            self._records.add_instance(record, call.user_data)
        self._records.save_launch(launch)
        self._launches[call.token] = launch
        for record in made:
            self._instances[record.id] = record
            self._schedule_boot(record)
        log.info("launch %s: %d x %s in %s", call.token, len(made), call.instance_type, call.zone)
        return [_instance(record) for record in made]

    def _recall(self, launch: LaunchRecord, index: int) -> Instance:
        """An instance of a known launch; one that is forgotten already was terminated."""
        record = self._instances.get(launch.instance_ids[index])
        if record is not None:
            return _instance(record)
        return Instance(launch.instance_ids[index], InstanceState.TERMINATED, launch.token, index)

    def _schedule_boot(self, record: InstanceRecord) -> None:
        wait = max(0.0, record.ready_at - self._clock.now().timestamp())
        loop = asyncio.get_running_loop()
        self._hold(record).boot = loop.call_later(wait, lambda: self._start(self._boot(record)))

    async def _boot(self, record: InstanceRecord) -> None:
        try:
            process = await self._booter.boot(
                record, lambda: record.state is InstanceState.PENDING and not self._closing
            )
        except (machine.BootError, NetworkError, OSError) as error:
            if record.alive:
                log.error("%s: boot failed: %s", record.id, error)
                await self._end(record, f"Server.InternalError: {error}")
            return
        if process is None:
            return
        self._children.append(process)
        if record.state is InstanceState.PENDING:
            self._move(record, InstanceState.RUNNING)
        self._watch(record)

    # ------------------------------------------------------------ list, terminate

    def describe(self, cluster: str = "") -> list[Instance]:
        """All instances whose tag ``milpa-cluster`` is ``cluster`` (empty: all), terminated ones for a while too."""
        lag = self.faults.take(FaultKind.LIST_LAG)
        known_at = self._clock.now().timestamp() - (lag.seconds if lag else 0.0)
        return [
            _instance(record, stale=record.changed_at > known_at)
            for record in self._instances.values()
            if record.launched_at <= known_at and (not cluster or record.tags.get(CLUSTER_TAG) == cluster)
        ]

    def terminate(self, instance_ids: Iterable[str], reason: str = "") -> Mapping[str, InstanceState]:
        """Starts the end of the instances; idempotent. The state by id; unknown ids are left out."""
        states: dict[str, InstanceState] = {}
        for instance_id in dict.fromkeys(instance_ids):
            record = self._instances.get(instance_id)
            if record is not None:
                if record.alive:
                    self._start(self._end(record, reason or "Client.UserInitiatedShutdown"))
                    self._move(record, InstanceState.SHUTTING_DOWN, reason or "Client.UserInitiatedShutdown")
                states[instance_id] = record.state
        return states

    def vanish(self, pattern: str) -> None:
        """Kills the living instances whose id matches the glob, as a failing host would."""
        found = [record.id for record in self._instances.values() if record.alive and fnmatchcase(record.id, pattern)]
        self.terminate(found, "Server.InstanceFailure (scripted)")

    def interrupt(self, fault: Fault) -> None:
        """Tells the living spot instances that the rule fits that they are taken back; their metadata says so at once,
        and ``housekeeping`` ends them when the notice is over."""
        at = self._clock.now().timestamp() + (fault.seconds or INTERRUPTION_NOTICE_S)
        for record in self._instances.values():
            if (
                record.spot
                and record.alive
                and not record.interruption_at
                and fnmatchcase(record.id, fault.instance)
                and fault.fits(instance_type=record.instance_type, zone=record.zone, spot=True)
            ):
                record.interruption_at = at
                self._records.save_instance(record)
                log.info("%s: interruption notice", record.id)

    def at_address(self, address: str) -> InstanceRecord | None:
        """The living instance with this private address. May be called from any thread."""
        return next((r for r in tuple(self._instances.values()) if r.alive and r.private_ip == address), None)

    async def _end(self, record: InstanceRecord, reason: str) -> None:
        """Kills the instance and clears up; returns when it is terminated."""
        held = self._hold(record)
        if held.ending or record.state is InstanceState.TERMINATED:
            return
        held.ending = True
        if held.boot is not None:
            held.boot.cancel()
        if record.state is not InstanceState.SHUTTING_DOWN:
            self._move(record, InstanceState.SHUTTING_DOWN, reason)
        self._unwatch(record.id)
        # A boot under way sees the new state and gives up by itself, before its init is let go.
        await asyncio.get_running_loop().run_in_executor(self._pool, self._clear, record)
        self._move(record, InstanceState.TERMINATED, reason)
        self._held.pop(record.id, None)

    def _clear(self, record: InstanceRecord) -> None:
        if not machine.kill_and_wait(record.pid, record.start_time, KILL_TIMEOUT_S):
            log.error("%s: PID %d has not died within %g s of SIGKILL", record.id, record.pid, KILL_TIMEOUT_S)
        left = remove_control_groups(control_group(self._network.bridge, record.id))
        if left:
            log.error("%s: still in use: %s", record.id, ", ".join(left))
        self._records.strip_instance(record.id)

    # ------------------------------------------------------------ life

    def restore(self) -> None:
        """Finds the instances of an earlier hypervisor again, and finishes what it had begun."""
        self._records.make_directories()
        self._instances, self._launches = self._records.read()
        newest = max(self._instances.values(), key=lambda record: record.launched_at, default=None)
        if newest is not None:
            self._admission.resume_after(newest.private_ip)
        for record in self._instances.values():
            if record.state is InstanceState.RUNNING:
                self._watch(record)
            elif record.state is InstanceState.SHUTTING_DOWN:
                self._start(self._end(record, record.reason))
            elif record.state is InstanceState.PENDING:
                # Its init may have been let go or not: a fresh boot is right in both cases.
                machine.kill_and_wait(record.pid, record.start_time, KILL_TIMEOUT_S)
                self._network.disconnect(record.id)
                self._schedule_boot(record)
        log.info("found %d instances", sum(record.alive for record in self._instances.values()))

    def housekeeping(self) -> None:
        """Ends what is taken back, forgets what is old, bounds the consoles and reaps; call about once a second."""
        now = self._clock.now().timestamp()
        self._children = [child for child in self._children if child.poll() is None]
        for record in list(self._instances.values()):
            if record.alive and 0 < record.interruption_at <= now:
                self.terminate([record.id], "Server.SpotInstanceTermination (scripted)")
            elif record.state is InstanceState.TERMINATED:
                if now - record.changed_at > self._settings.terminated_kept_s:
                    del self._instances[record.id]
                    self._records.remove_instance(record.id)
            elif record.state is InstanceState.RUNNING:
                _bound(self._records.instance_dir(record.id) / "console.log")
        for token, launch in list(self._launches.items()):
            if now - launch.launched_at > TOKEN_MEMORY_S and not self._instances.keys() & set(launch.instance_ids):
                del self._launches[token]
                self._records.remove_launch(token)

    async def close(self, *, keep_instances: bool) -> None:
        """Ends the background work; terminates the instances first, unless they are to be kept."""
        if not keep_instances:
            self.terminate(list(self._instances))
        self._closing = True
        for held in self._held.values():
            if held.boot is not None:
                held.boot.cancel()
        while self._tasks:
            await asyncio.wait(set(self._tasks))
        self._booter.close()
        for instance_id in list(self._held):
            self._unwatch(instance_id)
        self._pool.shutdown()

    def _hold(self, record: InstanceRecord) -> _Watched:
        return self._held.setdefault(record.id, _Watched())

    def _watch(self, record: InstanceRecord) -> None:
        """Notices the death of PID 1 at once, whoever its parent is."""
        if not record.alive:
            return
        pidfd = machine.open_pidfd(record.pid, record.start_time)
        if pidfd is None:
            self._died(record)
            return
        self._hold(record).pidfd = pidfd
        asyncio.get_running_loop().add_reader(pidfd, self._died, record)

    def _unwatch(self, instance_id: str) -> None:
        held = self._held.get(instance_id)
        if held is not None and held.pidfd >= 0:
            asyncio.get_running_loop().remove_reader(held.pidfd)
            os.close(held.pidfd)
            held.pidfd = -1

    def _died(self, record: InstanceRecord) -> None:
        self._unwatch(record.id)
        if record.alive:
            log.warning("%s: its PID 1 died by itself", record.id)
            self._start(self._end(record, "Server.InstanceFailure: PID 1 died"))

    def _move(self, record: InstanceRecord, state: InstanceState, reason: str = "") -> None:
        record.move_to(state, self._clock.now().timestamp(), reason)
        self._records.save_instance(record)
        log.info("%s: %s", record.id, state.value)

    def _start(self, coroutine: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("background work failed", exc_info=task.exception())


def _instance(record: InstanceRecord, *, stale: bool = False) -> Instance:
    return Instance(
        id=record.id,
        state=record.previous_state if stale else record.state,
        token=record.token,
        launch_index=record.launch_index,
        instance_type=record.instance_type,
        zone=record.zone,
        spot=record.spot,
        private_ip=record.private_ip,
        private_dns=record.private_dns,
        public_ip=record.public_ip,
        public_dns=record.public_dns,
        launched_at=record.launched_at,
        tags=record.tags,
    )


def _bound(console: Path) -> None:
    """Empties a console that has grown too long. Its writers append, so they go on at the start."""
    try:
        if console.stat().st_size > CONSOLE_LIMIT_BYTES:
            os.truncate(console, 0)
    except FileNotFoundError:
        pass
