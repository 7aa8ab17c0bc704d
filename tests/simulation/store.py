"""The store as one process sees it: the in-memory store behind a network that delays, loses and tears.

Whatever happens on the way, the store itself stays linearizable, as etcd does; ``StoreUnavailable`` says nothing
about a commit's effect, and here it may even take effect after the caller was told so.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import Context
from dataclasses import dataclass
from random import Random
from typing import TypeVar

from milpa_ray.errors import StoreUnavailable
from milpa_ray.store.memory import MemoryStore
from milpa_ray.store.port import Delete, Entry, Page, Put, Txn, TxnResult, WatchBatch
from tests.simulation.loop import CURRENT, SimLoop
from tests.simulation.process import Passage, SimProcess, in_world, remote

T = TypeVar("T")
MOST_CALLS_PER_S = 200

CommitObserver = Callable[[SimProcess, Txn, TxnResult, "dict[str, tuple[Entry | None, Entry | None]]"], None]


@dataclass(slots=True)
class StoreFaults:
    """Probabilities per call, and the longest delays in seconds. ``heal`` makes the network perfect."""

    latency_s: float = 0.004
    slow: float = 0.01
    slow_s: float = 0.8
    lost_answer: float = 0.01
    late_commit: float = 0.005
    late_s: float = 12.0
    dropped: float = 0.01
    lag: float = 0.03
    lag_s: float = 3.0
    torn: float = 0.005
    torn_s: float = 2.0
    timeout_s: float = 3.0

    def heal(self) -> None:
        self.slow = self.lost_answer = self.late_commit = self.dropped = self.lag = self.torn = 0.0


class Rates:
    """Counts calls by second, to find loops that never rest. ``exceeded`` is told (who, whom, limit)."""

    def __init__(self, loop: SimLoop) -> None:
        self._loop = loop
        self._second = 0
        self._calls: Counter[tuple[str, str]] = Counter()
        self.exceeded: Callable[[str, str, int], None] = lambda who, whom, limit: None

    def count(self, who: str, whom: str, limit: int) -> None:
        second = int(self._loop.time())
        if second != self._second:
            self._second = second
            self._calls.clear()
        self._calls[who, whom] += 1
        if self._calls[who, whom] > limit:
            self.exceeded(who, whom, limit)


class StoreServer:
    """The one store of a simulated cluster. ``observe`` is told every commit that was tried, as it happens."""

    def __init__(self, loop: SimLoop, faults: StoreFaults) -> None:
        self.loop = loop
        self.faults = faults
        self.backend = MemoryStore()
        self.observe: CommitObserver | None = None
        self.entries: dict[str, Entry] = {}
        self.written: dict[str, list[tuple[float, int]]] = {}
        """When each key was written, and at which revision, in order."""
        self.down_for: set[str] = set()
        self.rates = Rates(loop)

    def session(self, process: SimProcess, rng: Random) -> "SimStore":
        return SimStore(self, process, rng)

    async def commit(self, process: SimProcess, txn: Txn) -> TxnResult:
        """Commits and reports. Atomic: the in-memory store never suspends inside a commit."""
        result = await self.backend.commit(txn)
        changed: dict[str, tuple[Entry | None, Entry | None]] = {}
        if result.ok:
            for op in txn.ops:
                for key in self._keys_of(op):
                    old = self.entries.get(key)
                    new = await self.backend.get(key)
                    changed[key] = (old, new)
                    if new is None:
                        self.entries.pop(key, None)
                    else:
                        self.entries[key] = new
                        self.written.setdefault(key, []).append((self.loop.time(), new.mod_revision))
        if self.observe is not None:
            self.observe(process, txn, result, changed)
        return result

    def _keys_of(self, op: Put | Delete) -> list[str]:
        if isinstance(op, Put) or not op.end:
            return [op.key]
        return sorted(key for key in self.entries if op.key <= key < op.end)


class SimStore:
    """A ``Store`` for one process."""

    def __init__(self, server: StoreServer, process: SimProcess, rng: Random) -> None:
        self._server = server
        self._process = process
        self._rng = rng
        self._pumps: set[asyncio.Task[None]] = set()
        process.on_exit.append(self._drop_watches)

    async def get(self, key: str) -> Entry | None:
        return await self._call(lambda: self._server.backend.get(key))

    async def scan(
        self, start: str, end: str, *, limit: int = 1000, revision: int = 0, keys_only: bool = False
    ) -> Page:
        backend = self._server.backend
        return await self._call(lambda: backend.scan(start, end, limit=limit, revision=revision, keys_only=keys_only))

    async def revision(self) -> int:
        return await self._call(self._server.backend.revision)

    async def commit(self, txn: Txn) -> TxnResult:
        return await self._call(lambda: self._server.commit(self._process, txn), commit=True)

    async def lease_grant(self, ttl_s: int) -> int:
        return await self._call(lambda: self._server.backend.lease_grant(ttl_s))

    async def lease_keepalive(self, lease: int) -> int:
        return await self._call(lambda: self._server.backend.lease_keepalive(lease))

    async def lease_revoke(self, lease: int) -> None:
        await self._call(lambda: self._server.backend.lease_revoke(lease))

    async def compact(self, revision: int) -> None:
        await self._call(lambda: self._server.backend.compact(revision))

    async def close(self) -> None:
        self._drop_watches()

    async def watch(self, start: str, end: str, revision: int) -> AsyncIterator[WatchBatch]:
        inbox: asyncio.Queue[WatchBatch | Exception] = asyncio.Queue()
        pump = in_world(self._server.loop, self._pump(inbox, start, end, revision))
        self._pumps.add(pump)
        try:
            while True:
                batch = await inbox.get()
                if isinstance(batch, Exception):
                    raise batch
                yield batch
        finally:
            pump.cancel()
            self._pumps.discard(pump)

    async def _pump(self, inbox: "asyncio.Queue[WatchBatch | Exception]", start: str, end: str, revision: int) -> None:
        """Carries changes to one watcher, late at times; reconnects where it was after a tear, as etcd's clients do."""
        faults, rng = self._server.faults, self._rng
        try:
            while True:
                source = self._server.backend.watch(start, end, revision)
                async for batch in source:
                    if self._down() or rng.random() < faults.torn:
                        break  # this batch is lost with the stream, and read anew after the reconnect
                    lag = faults.lag_s if rng.random() < faults.lag else faults.latency_s
                    await asyncio.sleep(rng.random() * lag)
                    inbox.put_nowait(batch)
                    revision = batch.revision + 1
                await source.aclose()
                await asyncio.sleep(rng.random() * faults.torn_s)
                while self._down():  # noqa: ASYNC110
                    await asyncio.sleep(0.2)
        except Exception as error:
            inbox.put_nowait(error)

    def _down(self) -> bool:
        return self._process.name in self._server.down_for

    async def _call(self, work: Callable[[], Awaitable[T]], *, commit: bool = False) -> T:
        if not self._process.alive or CURRENT.get() is not self._process:
            raise asyncio.CancelledError  # only after the end of the run: the dead make no calls
        self._server.rates.count(self._process.name, "the store", MOST_CALLS_PER_S)
        return await remote(self._server.loop, self._passage(commit), work)

    def _passage(self, commit: bool) -> Passage:
        faults, rng = self._server.faults, self._rng
        there, back = rng.random() * faults.latency_s, rng.random() * faults.latency_s
        draw = rng.random()
        unknown = StoreUnavailable("simulated: no answer from the store")
        if self._down():
            return Passage(error=unknown, error_s=faults.timeout_s, drop=True)
        if draw < faults.dropped:
            return Passage(error=unknown, error_s=faults.timeout_s * rng.random(), drop=True)
        draw -= faults.dropped
        if commit and draw < faults.lost_answer:
            return Passage(request_s=there, error=unknown, error_s=there + faults.timeout_s * rng.random())
        draw -= faults.lost_answer
        if commit and draw < faults.late_commit:
            late = rng.random() * faults.late_s
            return Passage(request_s=late, error=unknown, error_s=min(late, faults.timeout_s) * rng.random())
        if rng.random() < faults.slow:
            there, back = there + rng.random() * faults.slow_s, back + rng.random() * faults.slow_s
        return Passage(request_s=there, response_s=back)

    def _drop_watches(self) -> None:
        for pump in self._pumps:
            self._server.loop.call_soon(pump.cancel, context=Context())
