"""A whole simulated world: loop, store, cloud, network, machines, processes and the invariants over them.

It knows no controllers: a ``Program`` is what a process runs, and is handed its ports.
"""

import gc
import hashlib
import logging
import os
import random
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import Context
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

from milpa_ray.clock import LoopClock
from milpa_ray.keys import Keys
from milpa_ray.ports import AgentDialer, Compute
from milpa_ray.store.port import Entry, Store, Txn, TxnResult
from milpa_ray.userdata import UserData
from tests.simulation.agents import Network, NetworkFaults
from tests.simulation.cloud import CloudFaults, SimCloud, SimInstance
from tests.simulation.invariants import Invariants
from tests.simulation.loop import CURRENT, SimLoop
from tests.simulation.machines import Machine
from tests.simulation.process import SimProcess
from tests.simulation.store import StoreFaults, StoreServer

EPOCH = datetime(2024, 1, 1, tzinfo=UTC)
TRACE_KEPT = 400


class Violation(Exception):
    """An invariant is broken, or a part has failed in a way that it may not."""


@dataclass(slots=True)
class Ports:
    """What a program is given: its own identity and its own way to everything else."""

    process: SimProcess
    store: Store
    compute: Compute
    dialer: AgentDialer
    clock: LoopClock
    keys: Keys
    rng: Random
    world: "World"


Program = Callable[[Ports], Awaitable[None]]


@dataclass(slots=True)
class Faults:
    """All probabilities of a run; drawn by the scenario."""

    store: StoreFaults = field(default_factory=StoreFaults)
    cloud: CloudFaults = field(default_factory=CloudFaults)
    network: NetworkFaults = field(default_factory=NetworkFaults)
    restart_s: float = 3.0
    skew_s: float = 0.0
    """How far a process's wall clock may be off."""

    def heal(self) -> None:
        self.store.heal()
        self.cloud.heal()
        self.network.heal()


@dataclass(slots=True)
class Place:
    """A process's place: what runs there, again and again, each time as a new incarnation."""

    name: str
    role: str
    program: Program
    current: SimProcess | None = None
    starts: int = 0
    retired: bool = False


class World:
    """One run. ``say`` is called with every line of the trace when given."""

    def __init__(self, seed: int, faults: Faults, say: Callable[[str], None] | None = None) -> None:
        self.seed = seed
        self.faults = faults
        self.keys = Keys("sim")
        self.loop = SimLoop(self.rng("order"))
        self.loop.after_step = self._after_step
        self.loop.set_exception_handler(self._on_exception)
        self.server = StoreServer(self.loop, faults.store)
        self.cloud = SimCloud(self.loop, self.rng("cloud"), faults.cloud, EPOCH.timestamp())
        self.network = Network(self.loop, faults.network)
        self.machines: dict[str, Machine] = {}
        self.places: dict[str, Place] = {}
        self.invariants = Invariants(self.keys, self.cloud, self.machines, self.fail)
        self.last_lines: deque[str] = deque(maxlen=TRACE_KEPT)
        self.events = 0
        self._hash = hashlib.sha256()
        self._say = say
        self._broken: str | None = None
        self._wire()

    def rng(self, name: str) -> Random:
        """A stream of its own for each part, so that one more draw in one of them leaves the others alone."""
        return Random(f"{self.seed}/{name}")

    def _wire(self) -> None:
        self.server.observe = self._observe_commit
        self.server.rates.exceeded = lambda who, whom, limit: self.fail(
            f"{who} called {whom} more than {limit} times within a second"
        )
        self.cloud.rates = self.network.rates = self.server.rates
        self.invariants.poor_network = self.faults.network.poor
        self.invariants.cut = self.network.cut
        self.invariants.records = self.server.entries.keys
        self.cloud.on_start = self._machine_starts
        self.cloud.on_end = self._machine_ends
        self.cloud.on_notice = self._machine_is_taken_back
        self.cloud.trace = self.network.trace = self.trace
        self.cloud.on_launch = self.invariants.on_launch
        self.cloud.on_terminate = self.invariants.on_terminate
        self.network.observe = self.invariants.on_call

    # ---------------------------------------------------------- trace and failure

    def trace(self, *words: object) -> None:
        line = f"{self.loop.time():9.3f}  {' '.join(map(str, words))}"
        self.events += 1
        self._hash.update(line.encode())
        self.last_lines.append(line)
        if self._say is not None:
            self._say(line)

    @property
    def trace_hash(self) -> str:
        return self._hash.hexdigest()[:16]

    def fail(self, what: str) -> None:
        """Ends the run at the end of the present step; the first failure counts."""
        if self._broken is None:
            self.trace("VIOLATION", what)
            self._broken = what

    def _after_step(self) -> None:
        if self._broken is not None:
            raise Violation(self._broken)

    def _on_exception(self, loop: Any, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, Violation):
            return
        self.fail(f"unhandled: {context.get('message')}: {error!r}")

    # ---------------------------------------------------------- machines

    def _machine_starts(self, instance: SimInstance) -> None:
        try:
            batch = UserData.unpack(instance.call.user_data).batch
        except ValueError:
            batch = instance.call.token
        machine = Machine(self.loop, self.rng(f"machine/{instance.id}"), instance, batch)
        machine.on_units, machine.trace = self.invariants.on_units, self.trace
        machine.on_trouble = self.troubled
        self.machines[instance.id] = machine
        self.network.by_ip[instance.ip] = machine
        self.trace(instance.id, "agent answers at", instance.ip)

    def troubled(self, instance_id: str) -> None:
        """Something is wrong, or right again, with the instance or the way to it."""
        self.invariants.trouble[instance_id] = self.loop.time()

    def _machine_ends(self, instance: SimInstance) -> None:
        self.invariants.on_power_off(instance.id)
        machine = self.machines.get(instance.id)
        if machine is not None:
            machine.power_off()

    def _machine_is_taken_back(self, instance: SimInstance) -> None:
        machine = self.machines.get(instance.id)
        if machine is not None and machine.agent_up:
            machine.notice()

    # ---------------------------------------------------------- processes

    def place(self, name: str, role: str, program: Program) -> Place:
        """A place for a process, started now."""
        place = self.places[name] = Place(name, role, program)
        self.start(place)
        return place

    def start(self, place: Place) -> None:
        place.starts += 1
        process = place.current = SimProcess(self.loop, place.name, place.role)
        self.trace(place.name, "starts")
        rng = self.rng(f"{place.name}/{place.starts}")
        ports = Ports(
            process=process,
            store=self.server.session(process, rng),
            compute=self.cloud.port(process, rng),
            dialer=self.network.dialer(process, rng),
            clock=LoopClock(EPOCH + timedelta(seconds=rng.uniform(-1, 1) * self.faults.skew_s)),
            keys=self.keys,
            rng=rng,
            world=self,
        )
        process.start(self._run_program(place, ports), lambda task: self._ended(place, process))

    async def _run_program(self, place: Place, ports: Ports) -> None:
        await place.program(ports)

    def _ended(self, place: Place, process: SimProcess) -> None:
        """It has stopped by itself: fine once, but an exception is a defect."""
        root = process.root
        assert root is not None
        if self.loop.tearing_down or not process.alive:
            return
        error = None if root.cancelled() else root.exception()
        if error is not None:
            self.fail(f"{place.name} ended with {error!r}")
        process.kill()
        self.trace(place.name, "ends")
        self._restart_later(place)

    def kill(self, place: Place) -> None:
        if place.current is not None and place.current.alive:
            self.trace(place.name, "is killed")
            place.current.kill()
            self._restart_later(place)

    def pause(self, place: Place, seconds: float) -> None:
        process = place.current
        if process is None or not process.alive or process.paused:
            return
        self.trace(place.name, f"is paused for {seconds:.1f} s")
        process.pause()

        def resume() -> None:
            if process.alive:
                self.trace(place.name, "goes on")
                process.resume()

        self.loop.call_later(seconds, resume, context=Context())

    def _restart_later(self, place: Place) -> None:
        if not place.retired:
            delay = self.rng(f"restart/{place.name}/{place.starts}").random() * self.faults.restart_s
            self.loop.call_later(delay, self.start, place, context=Context())

    # ---------------------------------------------------------- store

    def _observe_commit(
        self, process: SimProcess, txn: Txn, result: TxnResult, changed: dict[str, tuple[Entry | None, Entry | None]]
    ) -> None:
        pods, nodes = self.invariants.pods, self.invariants.nodes
        self.invariants.on_commit(process, txn, result, changed)
        if not result.ok:
            self.trace(process, "commit refused", *[op.key.removeprefix(self.keys.root) for op in txn.ops])
            return
        told = []
        for key, (_, new) in changed.items():
            obj = pods.get(key) or nodes.get(key)
            what = "gone" if new is None else f"{obj.status.phase}" if obj is not None else "written"
            told.append(f"{key.removeprefix(self.keys.root)}={what}")
        self.trace(process, f"commit {result.revision}", *told)

    # ---------------------------------------------------------- running

    @contextmanager
    def _logs(self) -> Iterator[None]:
        """What the product logs goes beside the trace; an error in the log is a failure of the run."""
        logger, handler = logging.getLogger("milpa_ray"), _LogHandler(self, self._say)
        before = logger.level, logger.propagate
        logger.addHandler(handler)
        logger.setLevel(logging.ERROR if self._say is None else logging.INFO)
        logger.propagate = False
        try:
            yield
        finally:
            logger.removeHandler(handler)
            logger.level, logger.propagate = before
            logger.setLevel(before[0])

    def run(self, until: Awaitable[None]) -> None:
        """Runs until ``until`` is done.

        Raises:
            Violation, Deadlock, OutOfSteps
        """
        with repeatable(self.seed), self._logs():
            try:
                task = self.loop.create_task(until, name="scenario", context=Context())
                self.loop.run_until_complete(task)
                self._after_step()
            finally:
                self.loop.tear_down()


class _LogHandler(logging.Handler):
    def __init__(self, world: World, say: Callable[[str], None] | None) -> None:
        super().__init__()
        self._world = world
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        process = CURRENT.get()
        text = self.format(record)
        if self._say is not None:
            self._say(f"{self._world.loop.time():9.3f}  {process}: log: {text}")
        if record.levelno >= logging.ERROR and not self._world.loop.tearing_down:
            self._world.fail(f"{process} logged an error: {text}")


@contextmanager
def repeatable(seed: int) -> Iterator[None]:
    """No entropy but the seed's: the random sources that code may reach for, and the collector's timing."""
    entropy = Random(f"{seed}/entropy")
    state, urandom = random.getstate(), os.urandom
    collecting = gc.isenabled()
    gc.disable()
    random.seed(seed)
    os.urandom = entropy.randbytes  # type: ignore[assignment]
    random._urandom = entropy.randbytes  # type: ignore[attr-defined]
    try:
        yield
    finally:
        os.urandom, random._urandom = urandom, urandom  # type: ignore[attr-defined]
        random.setstate(state)
        if collecting:
            gc.enable()
        gc.collect()


__all__ = ["EPOCH", "Faults", "Place", "Ports", "Program", "Violation", "World", "repeatable"]
