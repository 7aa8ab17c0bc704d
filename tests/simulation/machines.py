"""The machine behind a simulated instance: the agent's disk, the agent, and the pod's units as they truly run.

Units go on when the agent crashes and end only by themselves, by a stop, or with the machine. What the agent has on
disk survives its crash: the highest token, the pod, and what it was asked to stop. How a unit behaves is a label of
its pod: ``sim/behaviour`` is ``run`` (the default), ``exit0``, ``exit1`` or ``badimage``.
"""

import asyncio
from collections.abc import Callable
from contextvars import Context
from datetime import UTC, datetime
from random import Random

from milpa_ray.api.pod import (
    Pod,
    RestartPolicy,
    UnitRunning,
    UnitState,
    UnitStatus,
    UnitTerminated,
    UnitWaiting,
)
from milpa_ray.errors import AgentRefused, AgentUnreachable, StaleToken
from milpa_ray.ports import AgentReport, Hello, Token, bootstrap_identity, node_identity
from tests.simulation.cloud import SimInstance
from tests.simulation.loop import SimLoop

BEHAVIOUR = "sim/behaviour"
RESTART_BACKOFF_S = (2.0, 4.0, 8.0)
NO_TOKEN = Token(0, 0)


class Machine:
    """One running instance from the inside. ``on_units`` is called whenever the set of running units may differ."""

    def __init__(self, loop: SimLoop, rng: Random, instance: SimInstance, batch: str) -> None:
        self.loop = loop
        self.rng = rng
        self.instance = instance
        self.batch = batch
        self.powered = True
        self.agent_up = True
        self.epoch = datetime(2024, 1, 1, tzinfo=UTC).timestamp()
        # On disk.
        self.token = NO_TOKEN
        self.node_name = ""
        self.enrolled = False
        self.pod: Pod | None = None
        self.pod_uid = ""
        self.stop_asked: set[str] = set()
        # In memory of the agent.
        self.sequence = 0
        self.sessions = 0
        self.changed = asyncio.Event()
        # The truth about the units.
        self.units: dict[str, UnitStatus] = {}
        self.served: set[str] = set()
        self.on_units: Callable[[Machine], None] = lambda machine: None
        self.on_trouble: Callable[[str], None] = lambda instance_id: None
        self.trace: Callable[..., None] = lambda *words: None
        self._stopping: asyncio.Event | None = None
        self._life = 0

    # ---------------------------------------------------------- truth

    @property
    def running(self) -> bool:
        return self.powered and any(unit.state.running for unit in self.units.values())

    @property
    def stopped(self) -> bool:
        """Stopped by request, and nothing of it runs."""
        return self.pod_uid in self.stop_asked and not self.running

    def power_off(self) -> None:
        self.powered = self.agent_up = False
        self._life += 1
        self._wake()
        self.on_units(self)

    def crash_agent(self, down_s: float) -> None:
        """The agent's process dies and is started again; its disk and the units stay."""
        if not self.powered or not self.agent_up:
            return
        self.trace(self.instance.id, "agent crashes")
        self.agent_up = False
        self.on_trouble(self.instance.id)
        self.sequence = 0
        self._wake()
        self.loop.call_later(down_s, self._agent_back, context=Context())

    def _agent_back(self) -> None:
        if self.powered:
            self.agent_up = True
            self.on_trouble(self.instance.id)
            self.sessions += 1
            self.trace(self.instance.id, "agent is back")

    # ---------------------------------------------------------- calls (the agent's side)

    def proves(self, identity: str) -> bool:
        """Whether the agent's certificate bears this name."""
        if self.enrolled:
            return identity == node_identity(self.node_name)
        return identity == bootstrap_identity(self.batch)

    def hello(self, token: Token) -> Hello:
        self._fence(token)
        return Hello(
            node_name=self.node_name,
            version="sim",
            pod_uid=self.pod_uid,
            generation=self.pod.metadata.generation if self.pod else 0,
            stopped=self.stopped,
            enrolled=self.enrolled,
        )

    def enroll(self, token: Token, node_name: str) -> None:
        self._fence(token)
        self.enrolled, self.node_name = True, node_name

    def dispatch(self, token: Token, pod: Pod) -> None:
        self._fence(token)
        if pod.uid in self.stop_asked:
            raise AgentRefused(f"pod {pod.uid} was stopped here")
        if self.pod_uid not in ("", pod.uid):
            raise AgentRefused(f"this node holds pod {self.pod_uid}")
        if self.pod is not None and pod.metadata.generation <= self.pod.metadata.generation:
            return
        first = self.pod is None
        self.pod, self.pod_uid = pod, pod.uid
        self.served.add(pod.uid)
        if first:
            self.units = {unit.name: _waiting(unit.name, "Pulling") for unit in pod.spec.units}
            for unit in pod.spec.units:
                self.loop.create_task(self._run_unit(unit.name), name="unit", context=Context())
        self._change()

    async def stop(self, token: Token, pod_uid: str, grace_s: float) -> None:
        self._fence(token)
        self.stop_asked.add(pod_uid)
        if not self.pod_uid:
            self.pod_uid = pod_uid
        if pod_uid != self.pod_uid:
            return
        self._change()
        await asyncio.sleep(min(grace_s, self.rng.random() * 3.0))
        if not self.powered:
            raise AgentUnreachable("simulated: the instance ended meanwhile")
        self._life += 1
        for name, unit in self.units.items():
            if unit.state.terminated is None:
                self.units[name] = _terminated(name, 143, self._now(), unit.restart_count)
        self._change()
        self.on_units(self)
        if not self.agent_up:
            raise AgentUnreachable("simulated: the agent crashed meanwhile")

    def report(self, known: int | None) -> AgentReport:
        """The status; without the units when the watcher has seen this sequence."""
        repeat = known == self.sequence
        return AgentReport(
            sequence=self.sequence,
            pod_uid=self.pod_uid,
            generation=self.pod.metadata.generation if self.pod else 0,
            units=None if repeat else tuple(self.units.values()),
            stopped=self.stopped,
            interruption_at=self._interruption_at(),
        )

    def notice(self) -> None:
        """The agent learns that the cloud takes the instance back."""
        self._change()

    def _interruption_at(self) -> datetime | None:
        at = self.instance.taken_back_at
        return None if at is None else datetime.fromtimestamp(self.epoch + at, UTC)

    def _fence(self, token: Token) -> None:
        if token < self.token:
            raise StaleToken(self.token.term, self.token.revision)
        self.token = token

    # ---------------------------------------------------------- units

    async def _run_unit(self, name: str) -> None:
        life = self._life
        await asyncio.sleep(0.05 + self.rng.random())
        restarts = 0
        while self._goes_on(life) and self.pod is not None:
            behaviour = self.pod.metadata.labels.get(BEHAVIOUR, "run")
            if behaviour == "badimage":
                self._set(name, _waiting(name, "ErrImagePull: simulated", start_failure=True))
                return
            running = UnitState(running=UnitRunning(started_at=self._now()))
            self._set(name, UnitStatus(name=name, restart_count=restarts, state=running))
            if behaviour == "run":
                return
            await asyncio.sleep(1.0 + self.rng.random() * 10.0)
            if not self._goes_on(life):
                return
            code = 0 if behaviour == "exit0" else 1
            self._set(name, _terminated(name, code, self._now(), restarts))
            policy = self.pod.spec.restart_policy
            if policy == RestartPolicy.NEVER or (policy == RestartPolicy.ON_FAILURE and code == 0):
                return
            await asyncio.sleep(RESTART_BACKOFF_S[min(restarts, len(RESTART_BACKOFF_S) - 1)])
            restarts += 1

    def _goes_on(self, life: int) -> bool:
        return self.powered and life == self._life and self.pod_uid not in self.stop_asked

    def _set(self, name: str, status: UnitStatus) -> None:
        self.units[name] = status
        self._change()
        self.on_units(self)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self.epoch + self.loop.time(), UTC)

    def _change(self) -> None:
        self.sequence += 1
        self._wake()

    def _wake(self) -> None:
        """Wakes every watch stream: each waits on the event of its time."""
        self.changed.set()
        self.changed = asyncio.Event()


def _waiting(name: str, reason: str, *, start_failure: bool = False) -> UnitStatus:
    return UnitStatus(name=name, state=UnitState(waiting=UnitWaiting(reason=reason, start_failure=start_failure)))


def _terminated(name: str, code: int, at: datetime, restarts: int) -> UnitStatus:
    state = UnitState(terminated=UnitTerminated(exit_code=code, finished_at=at))
    return UnitStatus(name=name, restart_count=restarts, state=state)
