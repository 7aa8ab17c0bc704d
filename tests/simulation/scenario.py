"""One seed, one run: draws a world, its users' script and its faults, runs it, and tells how it ended.

First comes a time of faults, then a time of peace in which everything must come right.
"""

import asyncio
import traceback
from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass, field, fields
from random import Random

from milpa_ray.limits import Limits
from tests.simulation.ending import unmet
from tests.simulation.loop import Deadlock, OutOfSteps
from tests.simulation.process import in_world
from tests.simulation.servers import ApiServers, UserFaults
from tests.simulation.users import Ledger, User
from tests.simulation.world import Faults, Place, Violation, World

LEVELS = (0.0, 0.0, 0.3, 1.0, 1.0, 3.0, 10.0)
"""How bad a probability is, against the written one; drawn for each knob, so that runs differ in what goes wrong."""
WORST = 0.4
STORE_LATENCIES_S = (0.001, 0.004, 0.004, 0.05, 0.4)
NETWORK_LATENCIES_S = (0.002, 0.01, 0.1, 0.8)
CHECK_EVERY_S = 4.0
CALM_CHECKS = 3
PEACE_S = 400.0

Settle = Callable[[World], None]


def limits() -> Limits:
    """The product's limits, shortened so that minutes show what hours would."""
    return Limits(
        boot_timeout_s=45.0,
        unhealthy_after_s=25.0,
        unreachable_terminate_s=40.0,
        terminal_pod_kept_s=60.0,
        terminated_node_kept_s=5.0,
        stop_grace_s=4.0,
        interruption_margin_s=5.0,
        capacity_memory_s=8,
        gc_interval_s=15.0,
        gc_min_age_s=10.0,
        gc_max_unknown_fraction=1.0,
        retry_max_s=5.0,
        poll_interval_s=4.0,
    )


@dataclass(frozen=True, slots=True)
class Size:
    """Of a world: processes, pods, and seconds of faults."""

    shards: int
    coordinators: int
    servers: int
    pods: int
    trouble_s: float
    trouble_every_s: float

    @staticmethod
    def draw(rng: Random) -> "Size":
        return Size(
            shards=rng.choice((1, 2, 2, 3)),
            coordinators=rng.choice((1, 2, 2)),
            servers=rng.choice((1, 2)),
            pods=rng.randint(3, 14),
            trouble_s=rng.uniform(40.0, 160.0),
            trouble_every_s=rng.choice((1.0, 2.0, 5.0, 10.0, 20.0)),
        )


@dataclass(slots=True)
class Report:
    """How a run ended. ``failure`` is empty when all went well."""

    seed: int
    failure: str = ""
    trace_hash: str = ""
    virtual_s: float = 0.0
    steps: int = 0
    checks: int = 0
    events: int = 0
    last_lines: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        how = self.failure or "ok"
        return (
            f"seed {self.seed}: {how} ({self.virtual_s:.0f} s virtual, {self.steps} steps, "
            f"{self.checks} checks, trace {self.trace_hash})"
        )


def draw_faults(rng: Random) -> Faults:
    """Fault probabilities: each part of the world gets a level of its own."""
    faults = Faults()
    for part in (faults.store, faults.cloud, faults.network):
        for knob in fields(part):
            value = getattr(part, knob.name)
            if isinstance(value, float) and not knob.name.endswith("_s"):
                setattr(part, knob.name, min(WORST, value * rng.choice(LEVELS)))
    faults.store.latency_s = rng.choice(STORE_LATENCIES_S)
    faults.network.latency_s = rng.choice(NETWORK_LATENCIES_S)
    faults.skew_s = rng.choice((0.0, 0.5, 3.0))
    faults.cloud.ip_late = rng.random() < 0.3
    faults.cloud.listed_after_end_s = rng.choice((20.0, 60.0))
    faults.restart_s = rng.choice((1.0, 4.0, 12.0))
    return faults


class Nemesis:
    """Makes trouble: one deed at a time, by the seed, and mends what it broke."""

    def __init__(self, world: World, rng: Random, size: Size) -> None:
        self._world = world
        self._rng = rng
        self._size = size
        self._deeds: tuple[tuple[Callable[[], None], int], ...] = (
            (self._kill, 6),
            (self._pause, 6),
            (self._kill_all, 1),
            (self._store_down, 3),
            (self._cut, 4),
            (self._crash_agent, 4),
            (self._vanish, 3),
            (self._cloud_down, 2),
            (self._compact, 2),
            (self._take_back, 3),
        )

    async def run(self) -> None:
        deeds, weights = zip(*self._deeds, strict=True)
        while self._world.loop.time() < self._size.trouble_s:
            await asyncio.sleep(self._rng.expovariate(1.0 / self._size.trouble_every_s))
            self._rng.choices(deeds, weights)[0]()

    def _some(self) -> Place:
        return self._rng.choice(list(self._world.places.values()))

    def _kill(self) -> None:
        self._world.kill(self._some())

    def _kill_all(self) -> None:
        for place in list(self._world.places.values()):
            self._world.kill(place)

    def _pause(self) -> None:
        self._world.pause(self._some(), self._rng.choice((1.0, 4.0, 8.0, 15.0, 40.0)) * (0.5 + self._rng.random()))

    def _store_down(self) -> None:
        place, seconds = self._some(), self._rng.uniform(0.5, 12.0)
        down = self._world.server.down_for
        self._world.trace(place.name, f"does not reach the store for {seconds:.1f} s")
        down.add(place.name)
        self._later(seconds, lambda: down.discard(place.name))

    def _cut(self) -> None:
        live = [i.id for i in self._world.cloud.instances.values() if i.live]
        if not live:
            return
        instance, seconds = self._rng.choice(live), self._rng.choice((3.0, 15.0, 60.0, 120.0))
        names = list(self._world.places) if self._rng.random() < 0.5 else [self._some().name]
        ways = {(name, instance) for name in names}
        self._world.trace("no way to", instance, "from", *names, f"for {seconds:.1f} s")
        self._world.network.cut |= ways
        self._world.troubled(instance)

        def mend() -> None:
            self._world.network.cut.difference_update(ways)
            self._world.troubled(instance)

        self._later(seconds, mend)

    def _crash_agent(self) -> None:
        up = [m for m in self._world.machines.values() if m.agent_up]
        if up:
            self._rng.choice(up).crash_agent(self._rng.uniform(0.2, 8.0))

    def _vanish(self) -> None:
        live = [i for i in self._world.cloud.instances.values() if i.live]
        if live:
            instance = self._rng.choice(live)
            self._world.trace(instance.id, "vanishes")
            self._world.cloud.end(instance)

    def _take_back(self) -> None:
        spot = [i for i in self._world.cloud.instances.values() if i.live and i.call.spot]
        if spot:
            self._world.cloud.take_back(self._rng.choice(spot), self._rng.choice((3.0, 12.0, 30.0, 60.0)))

    def _cloud_down(self) -> None:
        self._world.cloud.down = True
        self._world.trace("the cloud's API is down")
        self._later(self._rng.uniform(1.0, 20.0), lambda: setattr(self._world.cloud, "down", False))

    def _compact(self) -> None:
        revision = self._world.server.backend._data.revision - self._rng.randint(0, 20)
        if revision > self._world.server.backend._data.compacted:
            self._world.trace("compaction at", revision)
            self._world.server.backend._data.compact(revision)

    def _later(self, seconds: float, mend: Callable[[], None]) -> None:
        self._world.loop.call_later(seconds, mend, context=Context())


def run_seed(seed: int, cluster: Callable[[World, Size], None], say: Callable[[str], None] | None = None) -> Report:
    """Runs one seed. ``cluster`` places the controllers into the world."""
    rng = Random(f"{seed}/scenario")
    size, faults = Size.draw(rng), draw_faults(rng)
    world = World(seed, faults, say)
    ledger = Ledger()
    orders = ledger.draw(rng, size.pods, size.trouble_s)
    report = Report(seed)
    servers = ApiServers(world.loop, world.rng("users"), UserFaults())

    async def drive() -> None:
        world.trace(size)
        cluster(world, size)

        for number in range(size.servers):
            world.place(f"server-{number}", "server", servers.serve)
        using = in_world(world.loop, User(world, servers, ledger).run(orders))
        await Nemesis(world, rng, size).run()
        world.trace("peace")
        faults.heal()
        servers.faults.heal()
        await _peace(world, ledger)
        await using

    try:
        world.run(drive())
    except (Violation, Deadlock, OutOfSteps) as error:
        report.failure = str(error)
    except Exception:
        report.failure = "the harness failed: " + traceback.format_exc()
    report.trace_hash, report.events = world.trace_hash, world.events
    report.virtual_s, report.steps, report.checks = world.loop.time(), world.loop.steps, world.invariants.checks
    report.last_lines = list(world.last_lines)
    return report


async def _peace(world: World, ledger: Ledger) -> None:
    """Waits until all is as it must be, and stays so."""
    deadline = world.loop.time() + PEACE_S
    calm = 0
    while True:
        await asyncio.sleep(CHECK_EVERY_S)
        missing = unmet(world, ledger)
        calm = 0 if missing else calm + 1
        if calm == CALM_CHECKS:
            return
        if world.loop.time() > deadline:
            world.fail("not right in the end: " + "; ".join(missing))
            return
