"""Faults for real processes: a schedule drawn from a seed, and what strikes with it.

Processes are killed (SIGKILL) or stopped for a while (SIGSTOP), and the cloud's API fails by script. It never restarts
anything: that is for Ray and etcd's supervisor to do. Knows nothing of what must hold.
"""

import asyncio
import json
import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from benchmarks.cluster import CLUSTER, Cluster, say
from cloud.local.client import LocalCompute
from milpa_ray.store.etcd_supervisor import ETCD_PID
from milpa_ray.store.process_id import ProcessId
from shards.local_cloud import hypervisor_socket

KILL, PAUSE, CLOUD = "kill", "pause", "cloud"
LOST, ERRORS, THROTTLED = "lost answers", "errors", "throttled"
ETCD, HOLLOW, COORDINATOR, API = "etcd", "hollow cloud", "coordinator", "api"
_RULES = {
    LOST: [{"kind": "lost-response", "call": "launch", "times": 2}, {"kind": "lost-response", "times": 3}],
    ERRORS: [{"kind": "api-error", "times": 10}],
    THROTTLED: [{"kind": "throttle", "times": 10}],
}
"""Scripts of ``cloud.local.faults``."""
API_HOST = "127.0.0.1"
GAP_S = (2.0, 9.0)
PAUSE_S = (1.0, 15.0)
VICTIM_WAIT_S = 20.0
"""How long a fault waits for its victim, which may be down at the moment."""
POLL_S = 0.1
_STARTED = re.compile(rb"starts as process (\d+)")


@dataclass(frozen=True, slots=True)
class Fault:
    """``kind`` strikes ``target`` at ``at_s`` seconds from the start; a pause lasts ``lasts_s``."""

    at_s: float
    kind: str
    target: str
    lasts_s: float = 0.0

    def __str__(self) -> str:
        how_long = f" for {self.lasts_s:.1f} s" if self.lasts_s else ""
        return f"{self.kind} {self.target}{how_long}"


def schedule(rng: Random, span_s: float, shards: int) -> list[Fault]:
    """Faults within ``span_s`` seconds, pauses included. Every kind comes once before any comes again."""
    parts = [*(f"shard-{number}" for number in range(shards)), COORDINATOR, API, ETCD]
    kinds = [(KILL, part) for part in parts] + [(PAUSE, part) for part in (*parts, HOLLOW)]
    kinds += [(CLOUD, script) for script in _RULES]
    found = []
    drawn = _bags(rng, kinds)
    at_s = rng.uniform(*GAP_S)
    while at_s < span_s:
        kind, target = next(drawn)
        lasts_s = min(rng.uniform(*PAUSE_S), span_s - at_s) if kind == PAUSE else 0.0
        found.append(Fault(at_s, kind, target, lasts_s))
        at_s += rng.uniform(*GAP_S)
    return found


def _bags(rng: Random, kinds: list[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    while True:
        yield from rng.sample(kinds, len(kinds))


class Injector:
    """Strikes the parts of one cluster. ``release`` undoes what may still last; call it whatever happens."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._stopped: set[ProcessId] = set()
        self._waking: set[asyncio.Task[None]] = set()

    async def strike(self, fault: Fault) -> bool:
        """Carries out ``fault``. False: its victim was down all the time."""
        if fault.kind == CLOUD:
            return await self._script(json.dumps({"add": _RULES[fault.target]}))
        victim = await self._victim(fault.target)
        if victim is None:
            return False
        if fault.kind == KILL:
            victim.send(signal.SIGKILL)
            return True
        victim.send(signal.SIGSTOP)
        self._stopped.add(victim)
        task = asyncio.create_task(self._wake(victim, fault.lasts_s))
        self._waking.add(task)
        task.add_done_callback(self._waking.discard)
        return True

    async def release(self) -> None:
        """Lets everything go on, and the cloud answer."""
        for task in tuple(self._waking):
            task.cancel()
        for process in self._stopped:
            process.send(signal.SIGCONT)
        self._stopped.clear()
        if not await self._script('{"clear": true}'):
            say("the hollow cloud does not answer")

    async def _wake(self, process: ProcessId, after_s: float) -> None:
        await asyncio.sleep(after_s)
        process.send(signal.SIGCONT)
        self._stopped.discard(process)

    async def _victim(self, target: str) -> ProcessId | None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + VICTIM_WAIT_S
        while (victim := self.process(target)) is None or victim in self._stopped:
            if loop.time() > deadline:
                return None
            await asyncio.sleep(POLL_S)
        return victim

    def process(self, target: str) -> ProcessId | None:
        """The living process of that part; None while it is down."""
        home = self._cluster.home
        if target == HOLLOW:
            return ProcessId.of(self._cluster.hollow.pid)
        if target == ETCD:
            found = ProcessId.load(home.run / ETCD_PID)
            return found if found is not None and found.alive() else None
        name = f"api-{API_HOST}" if target == API else target
        # The actor's own log tells its pid at once; Ray would ask the actor, which may be stopped.
        started = _STARTED.findall((home.log / f"{name}.log").read_bytes())
        ours = {process.pid for process in self._cluster.installation.ray.processes()}
        return ProcessId.of(int(started[-1])) if started and int(started[-1]) in ours else None

    async def _script(self, request: str) -> bool:
        from milpa_ray.errors import MilpaError

        compute = LocalCompute(hypervisor_socket(self._cluster.home), CLUSTER, timeout_s=VICTIM_WAIT_S)
        try:
            await compute.set_faults(request)
        except MilpaError:
            return False
        finally:
            await compute.close()
        return True
