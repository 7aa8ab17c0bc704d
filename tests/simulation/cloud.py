"""A simulated cloud: instances that boot, run, vanish and end, and an API with EC2's bad habits.

Launches are idempotent by token, may bring fewer instances than asked, and may be made although the caller heard an
error. Listings lag. The ledger keeps every instance there ever was.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import Context
from dataclasses import dataclass, field, replace
from random import Random
from typing import TypeVar

from milpa_ray.errors import CloudThrottled, CloudUnavailable, LaunchOutdated, NoCapacity
from milpa_ray.ports import Instance, InstanceState, LaunchCall
from tests.simulation.loop import CURRENT, SimLoop
from tests.simulation.process import Passage, SimProcess, in_world, remote
from tests.simulation.store import Rates

T = TypeVar("T")
MOST_CALLS_PER_S = 30
GONE = frozenset({InstanceState.TERMINATED})
ENDING = frozenset({InstanceState.TERMINATED, InstanceState.SHUTTING_DOWN})


@dataclass(slots=True)
class CloudFaults:
    """Probabilities per call or instance; durations in seconds are the longest."""

    latency_s: float = 0.3
    throttled: float = 0.05
    unavailable: float = 0.03
    lost_answer: float = 0.05
    late_launch: float = 0.03
    late_s: float = 20.0
    no_capacity: float = 0.08
    outdated: float = 0.02
    partial: float = 0.15
    never_boots: float = 0.03
    stale: float = 0.3
    stale_s: float = 8.0
    boot_s: tuple[float, float] = (1.0, 6.0)
    terminate_s: tuple[float, float] = (0.5, 6.0)
    listed_after_end_s: float = 60.0
    reuse_ip: bool = True
    ip_late: bool = False

    def heal(self) -> None:
        self.throttled = self.unavailable = self.lost_answer = self.late_launch = 0.0
        self.no_capacity = self.outdated = self.partial = self.never_boots = self.stale = 0.0


@dataclass(eq=False, slots=True)
class SimInstance:
    """One instance with its whole history, oldest first."""

    id: str
    call: LaunchCall
    index: int
    ip: str
    launched_at: float
    history: list[tuple[float, InstanceState]] = field(default_factory=list)
    lost: bool = False
    taken_back_at: float | None = None
    """When the cloud ends it by itself, once it has given notice of that."""
    labels: dict[str, str] = field(default_factory=dict)
    volume_gib: int = 0

    @property
    def state(self) -> InstanceState:
        return self.history[-1][1]

    @property
    def live(self) -> bool:
        return self.state not in GONE

    def state_at(self, time: float) -> InstanceState | None:
        return next((state for since, state in reversed(self.history) if since <= time), None)


class SimCloud:
    """The cloud itself. ``on_start`` and ``on_end`` tell the world that an instance's machine runs or is gone."""

    def __init__(self, loop: SimLoop, rng: Random, faults: CloudFaults, epoch: float) -> None:
        self.loop = loop
        self.rng = rng
        self.faults = faults
        self.instances: dict[str, SimInstance] = {}
        self.down = False
        self.refused: set[str] = set()
        """Launches that were refused once; a late copy of the call may still be carried out."""
        self.on_start: Callable[[SimInstance], None] = lambda instance: None
        self.on_end: Callable[[SimInstance], None] = lambda instance: None
        self.on_notice: Callable[[SimInstance], None] = lambda instance: None
        self.on_launch: Callable[[LaunchCall, LaunchCall | None], None] = lambda call, before: None
        self.on_terminate: Callable[[SimInstance], None] = lambda instance: None
        self.trace: Callable[..., None] = lambda *words: None
        self.rates = Rates(loop)
        self._launches: dict[str, tuple[LaunchCall, list[SimInstance]]] = {}
        self._free_ips: list[str] = []
        self._epoch = epoch

    def port(self, process: SimProcess, rng: Random) -> "SimCompute":
        return SimCompute(self, process, rng)

    # -------------------------------------------------------- the API's far side

    async def prepare(self, call: LaunchCall) -> LaunchCall:
        return replace(call, image="image-1", subnet=f"subnet-of-{call.zone}", security_groups=("group-1",))

    async def launch(self, call: LaunchCall) -> Sequence[Instance]:
        assert call.subnet, "a call was made that nobody had prepared"
        known = self._launches.get(call.token)
        self.on_launch(call, known[0] if known is not None else None)
        if known is not None:
            return [self.describe(instance, instance.state) for instance in known[1]]
        if self.rng.random() < self.faults.no_capacity:
            self.trace("cloud", "no capacity", call.token)
            self.refused.add(call.token)
            raise NoCapacity("InsufficientInstanceCapacity", f"simulated: no {call.instance_type} in {call.zone}")
        if self.rng.random() < self.faults.outdated:
            self.trace("cloud", "outdated", call.token)
            self.refused.add(call.token)
            raise LaunchOutdated("InvalidAMIID.NotFound", f"simulated: {call.image} does not exist")
        count = call.count
        if count > 1 and self.rng.random() < self.faults.partial:
            count = self.rng.randint(1, count - 1)
        made = [self._create(call, index) for index in range(count)]
        self._launches[call.token] = (call, made)
        return [self.describe(instance, instance.state) for instance in made]

    async def list_instances(self) -> Sequence[Instance]:
        now = self.loop.time()
        stale = self.faults.stale_s * self.rng.random() if self.rng.random() < self.faults.stale else 0.0
        listed = []
        for instance in self.instances.values():
            state = instance.state_at(now - stale)
            if state is None:
                continue
            if state in GONE and instance.history[-1][0] < now - self.faults.listed_after_end_s:
                continue
            listed.append(self.describe(instance, state))
        return listed

    async def terminate(self, ids: Sequence[str]) -> Mapping[str, InstanceState]:
        states = {}
        for wanted in ids:
            instance = self.instances.get(wanted)
            if instance is None or self._forgotten(instance):
                continue
            self.on_terminate(instance)
            if instance.state not in ENDING:
                self.set_state(instance, InstanceState.SHUTTING_DOWN)
                delay = self.rng.uniform(*self.faults.terminate_s)
                self.loop.call_later(delay, self.end, instance, context=Context())
            states[wanted] = instance.state
        return states

    async def label(self, tags: Mapping[str, Mapping[str, str]]) -> None:
        for instance_id, labels in tags.items():
            if instance_id in self.instances:
                self.instances[instance_id].labels.update(labels)

    async def grow_volume(self, instance_id: str, gib: int) -> None:
        instance = self.instances[instance_id]
        instance.volume_gib = max(instance.volume_gib, gib)

    # -------------------------------------------------------- the machines

    def end(self, instance: SimInstance) -> None:
        """The machine is off, by request or because it vanished."""
        if instance.live:
            self.set_state(instance, InstanceState.TERMINATED)
            if self.faults.reuse_ip:
                self._free_ips.append(instance.ip)
            self.on_end(instance)

    def take_back(self, instance: SimInstance, notice_s: float) -> None:
        """Gives notice of a spot interruption, which comes after ``notice_s``."""
        if instance.taken_back_at is None and instance.live:
            instance.taken_back_at = self.loop.time() + notice_s
            self.trace("cloud", instance.id, f"is taken back in {notice_s:.1f} s")
            self.loop.call_later(notice_s, self.end, instance, context=Context())
            self.on_notice(instance)

    def set_state(self, instance: SimInstance, state: InstanceState) -> None:
        instance.history.append((self.loop.time(), state))
        self.trace("cloud", instance.id, str(state))

    def describe(self, instance: SimInstance, state: InstanceState) -> Instance:
        hidden = self.faults.ip_late and state is InstanceState.PENDING
        return Instance(
            id=instance.id,
            state=state,
            token=instance.call.token,
            launch_index=instance.index,
            instance_type=instance.call.instance_type,
            zone=instance.call.zone,
            spot=instance.call.spot,
            private_ip="" if hidden else instance.ip,
            private_dns="" if hidden else f"ip-{instance.ip.replace('.', '-')}.internal",
            launched_at=self._epoch + instance.launched_at,
            tags={**instance.call.tags, **instance.labels},
        )

    def _forgotten(self, instance: SimInstance) -> bool:
        ended, state = instance.history[-1]
        return state in GONE and ended < self.loop.time() - self.faults.listed_after_end_s

    def _create(self, call: LaunchCall, index: int) -> SimInstance:
        number = len(self.instances) + 1
        if self._free_ips and self.rng.random() < 0.5:
            ip = self._free_ips.pop(self.rng.randrange(len(self._free_ips)))
        else:
            ip = f"10.0.{number // 250}.{number % 250 + 1}"
        instance = SimInstance(f"i-{number:04d}", call, index, ip, self.loop.time())
        self.instances[instance.id] = instance
        self.set_state(instance, InstanceState.PENDING)
        if self.rng.random() < self.faults.never_boots:
            instance.lost = True
            self.trace("cloud", instance.id, "will never boot")
            if self.rng.random() < 0.5:
                return instance
        in_world(self.loop, self._boot(instance))
        return instance

    async def _boot(self, instance: SimInstance) -> None:
        boot_s = self.rng.uniform(*self.faults.boot_s)
        agent_s = self.rng.uniform(0.0, 2.0)
        await asyncio.sleep(boot_s)
        if instance.state is not InstanceState.PENDING:
            return
        self.set_state(instance, InstanceState.RUNNING)
        await asyncio.sleep(agent_s)
        if instance.state is InstanceState.RUNNING and not instance.lost:
            self.on_start(instance)


class SimCompute:
    """A ``Compute`` for one process."""

    def __init__(self, cloud: SimCloud, process: SimProcess, rng: Random) -> None:
        self._cloud = cloud
        self._process = process
        self._rng = rng

    async def prepare(self, call: LaunchCall) -> LaunchCall:
        return await self._call(lambda: self._cloud.prepare(call))

    async def label(self, tags: Mapping[str, Mapping[str, str]]) -> None:
        await self._call(lambda: self._cloud.label(tags))

    async def grow_volume(self, instance_id: str, gib: int) -> None:
        await self._call(lambda: self._cloud.grow_volume(instance_id, gib))

    async def launch(self, call: LaunchCall) -> Sequence[Instance]:
        self._cloud.trace(self._process, "launch", call.token, call.count)
        return await self._call(lambda: self._cloud.launch(call), launch=True)

    async def list_instances(self) -> Sequence[Instance]:
        return await self._call(self._cloud.list_instances)

    async def terminate(self, instance_ids: Sequence[str]) -> Mapping[str, InstanceState]:
        ids = tuple(instance_ids)
        self._cloud.trace(self._process, "terminate", *ids)
        return await self._call(lambda: self._cloud.terminate(ids))

    async def _call(self, work: Callable[[], Awaitable[T]], *, launch: bool = False) -> T:
        if not self._process.alive or CURRENT.get() is not self._process:
            raise asyncio.CancelledError  # only after the end of the run
        self._cloud.rates.count(self._process.name, "the cloud", MOST_CALLS_PER_S)
        return await remote(self._cloud.loop, self._passage(launch), work)

    def _passage(self, launch: bool) -> Passage:
        faults, rng = self._cloud.faults, self._rng
        there, back = rng.random() * faults.latency_s, rng.random() * faults.latency_s
        if self._cloud.down:
            return Passage(error=CloudUnavailable("simulated: down"), error_s=2.0, drop=True)
        draw = rng.random()
        if draw < faults.throttled:
            return Passage(error=CloudThrottled("simulated: RequestLimitExceeded"), error_s=there, drop=True)
        draw -= faults.throttled
        if draw < faults.unavailable:
            return Passage(error=CloudUnavailable("simulated: InternalError"), error_s=there, drop=True)
        draw -= faults.unavailable
        if draw < faults.lost_answer:
            return Passage(request_s=there, error=CloudUnavailable("simulated: no answer"), error_s=there + back)
        draw -= faults.lost_answer
        if launch and draw < faults.late_launch:
            late = rng.random() * faults.late_s
            return Passage(request_s=late, error=CloudUnavailable("simulated: time-out"), error_s=min(late, 5.0))
        return Passage(request_s=there, response_s=back)
