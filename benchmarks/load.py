"""Pods for benchmarks, and a watch that knows how far they are. Shared by the programs of this folder."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import datetime

from benchmarks.cluster import BenchmarkError, say
from milpa_ray.api import Pod
from milpa_ray.client import AsyncClient, Change, WatchEvent

LABELS = {"benchmark": "load"}
SELECTOR = "benchmark=load"
PROGRESS_S = 5.0


def pods(count: int) -> list[Pod]:
    """``count`` small pods."""
    return [
        AsyncClient.pod(f"load-{number:06d}", "registry.local/app:1", ["serve"], labels=LABELS)
        for number in range(count)
    ]


@dataclass(slots=True)
class Tracked:
    """What the watch told of one pod: times in seconds since the epoch, by the records' own time stamps."""

    created_at: float
    phase: str
    running_at: float = 0.0


@dataclass
class Tracker:
    """Follows the pods of ``SELECTOR``."""

    pods: dict[str, Tracked] = field(default_factory=dict)
    running: int = 0
    events: int = 0
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    @contextlib.asynccontextmanager
    async def following(self, client: AsyncClient) -> AsyncIterator["Tracker"]:
        """Follows while the context lasts; it has seen what there is when it begins."""
        synced = asyncio.Event()
        task = asyncio.create_task(self._follow(client, synced))
        waiting = asyncio.create_task(synced.wait())
        try:
            await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                task.result()
            yield self
        finally:
            waiting.cancel()
            task.cancel()
            await asyncio.wait([task, waiting])

    async def _follow(self, client: AsyncClient, synced: asyncio.Event) -> None:
        async for event in client.watch("Pod", selector=SELECTOR):
            if event.change is Change.SYNCED:
                synced.set()
            else:
                self._take(event)

    def _take(self, event: WatchEvent) -> None:
        self.events += 1
        before = self.pods.get(event.name)
        self.running -= before is not None and before.phase == "Running"
        if event.change is Change.REMOVED:
            self.pods.pop(event.name, None)
        else:
            body = json.loads(event.json)
            status = body.get("status", {})
            phase = status.get("phase", "Waiting")
            pod = self.pods[event.name] = before or Tracked(_time(body["metadata"]["creationTimestamp"]), phase)
            pod.phase = phase
            if phase == "Running":
                self.running += 1
                pod.running_at = pod.running_at or _time(status["lastPhaseChange"])
        self._changed.set()

    async def until_running(self, count: int, timeout_s: float) -> None:
        """Waits until ``count`` pods are Running."""
        await self._until(lambda: self.running >= count, timeout_s, f"{count} pods Running")

    async def until_gone(self, timeout_s: float) -> None:
        """Waits until there is no pod left."""
        await self._until(lambda: not self.pods, timeout_s, "all pods gone")

    async def _until(self, reached: Callable[[], bool], timeout_s: float, what: str) -> None:
        loop = asyncio.get_running_loop()
        deadline, told = loop.time() + timeout_s, loop.time()
        while not reached():
            if loop.time() > deadline:
                raise BenchmarkError(f"not {what} after {timeout_s:.0f} s: {self.summary()}")
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self._changed.wait()
            if loop.time() - told > PROGRESS_S:
                told = loop.time()
                say(f"  {self.summary()}")

    def summary(self) -> str:
        """How many pods are in which phase."""
        counts: dict[str, int] = {}
        for pod in self.pods.values():
            counts[pod.phase] = counts.get(pod.phase, 0) + 1
        return ", ".join(f"{count} {phase}" for phase, count in sorted(counts.items())) or "no pods"


def _time(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
