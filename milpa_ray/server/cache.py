"""The watch cache: all objects of the cluster but events and log files, as the stored bytes.

One watch over the whole cluster feeds it, so that it sees every transaction whole. ``fresh`` makes reads linearizable:
it waits until the cache has reached the store's revision of the moment. After a compaction it lists anew and tells
watchers the difference. It is empty until its first list is done, which ``fresh`` waits for too.
"""

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from heapq import heappop, heappush
from itertools import count
from typing import Any

from milpa_ray.errors import Compacted, MilpaError, StoreUnavailable
from milpa_ray.keys import SLOTTED, Keys, prefix_end
from milpa_ray.server.background import Background
from milpa_ray.server.history import Event, History
from milpa_ray.server.items import Item
from milpa_ray.store.port import Put, Store, Txn, TxnResult, WatchBatch

# The entries of the API servers are no objects of users, but are needed in step with them (``peers``).
CACHED = frozenset({"pod", "node", "service", "replicaset", "deployment", "secret", "endpoints", "apiserver"})
PAGE = 1000
RETRY_FIRST_S = 0.1
RETRY_MAX_S = 5.0
FRESH_TIMEOUT_S = 10.0
NUDGE_FIRST_S = 0.03
NUDGE_NEXT_S = 0.5

log = logging.getLogger(__name__)

Objects = dict[str, dict[str, Item]]


class WatchCache:
    """Call ``start`` in a running event loop, and ``stop`` at the end."""

    def __init__(self, store: Store, keys: Keys, history: History | None = None) -> None:
        self._store = store
        self._keys = keys
        self._objects: Objects = {kind: {} for kind in CACHED}
        self._reading: asyncio.Task[int] | None = None
        self._next_read: asyncio.Task[int] | None = None
        self._nudging: asyncio.Task[TxnResult] | None = None
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._number = count()
        self._background = Background(self._run, "watch cache")
        self.history = history or History()
        self.revision = 0
        """The store's revision up to which the cache has everything; 0: nothing yet."""
        self.current_at = float("-inf")
        """The last moment, by the loop's time in seconds, of which the cache is known to have had everything."""
        self.moved = asyncio.Event()
        """Set when an object has changed; for whoever clears it."""

    def start(self) -> None:
        self._background.start()

    async def stop(self) -> None:
        await self._background.stop()

    # ------------------------------------------------------------ reading

    def get(self, kind: str, name: str) -> Item | None:
        """The object, or None. ``kind`` in lower case."""
        return self._objects[kind].get(name)

    def items(self, kind: str) -> list[Item]:
        """All objects of a kind as they are now, by name."""
        found = self._objects[kind]
        return [found[name] for name in sorted(found)]

    def counts(self) -> dict[str, int]:
        """Number of objects by kind."""
        return {kind: len(found) for kind, found in sorted(self._objects.items())}

    async def fresh(self, timeout_s: float = FRESH_TIMEOUT_S) -> int:
        """Waits until the cache has everything that was committed before this call; the revision it has reached.

        Raises:
            StoreUnavailable: the store does not answer, or the cache does not catch up in time.
        """
        began = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(timeout_s):
                revision = await asyncio.shield(self._store_revision())
                pause_s = NUDGE_FIRST_S
                while not await self._reached_within(revision, pause_s):
                    await self._nudge()
                    pause_s = NUDGE_NEXT_S
        except TimeoutError:
            raise StoreUnavailable(
                f"the API server's cache has not caught up with the store in {timeout_s:g} s; is etcd healthy?"
            ) from None
        self.current_at = max(self.current_at, began)
        return self.revision

    async def confirm(self, timeout_s: float) -> None:
        """Brings ``current_at`` up to date, if store and watch are quick enough; unlike ``fresh`` it never writes.

        Raises:
            StoreUnavailable
        """
        began = asyncio.get_running_loop().time()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self.reached(await asyncio.shield(self._store_revision()))
                self.current_at = max(self.current_at, began)

    async def reached(self, revision: int) -> None:
        """Waits until the cache has everything up to ``revision``, for as long as it takes."""
        if self.revision < revision:
            future = asyncio.get_running_loop().create_future()
            heappush(self._waiting, (revision, next(self._number), future))
            await future

    async def _reached_within(self, revision: int, timeout_s: float) -> bool:
        try:
            async with asyncio.timeout(timeout_s):
                await self.reached(revision)
        except TimeoutError:
            return False
        return True

    async def _nudge(self) -> None:
        """Has the watch tell how far it is, by a change that it must see.

        When others use the same etcd, its revision runs ahead of what our watch is told, and not every etcd tells on
        request. Readers that wait at the same time share one write.
        """
        if self._nudging is None or self._nudging.done():
            put = Txn(ops=(Put(self._keys.sync, b""),))
            self._nudging = asyncio.create_task(self._store.commit(put))
            self._nudging.add_done_callback(_retrieve)
        await asyncio.shield(self._nudging)

    def _store_revision(self) -> asyncio.Task[int]:
        """A read of the store's revision that begins after this call; callers that come meanwhile share it."""
        if self._next_read is None:
            self._next_read = asyncio.create_task(self._read_after(self._reading))
            self._next_read.add_done_callback(_retrieve)
        return self._next_read

    async def _read_after(self, previous: asyncio.Task[int] | None) -> int:
        if previous is not None:
            await asyncio.wait([previous])
        self._reading, self._next_read = self._next_read, None
        return await self._store.revision()

    # ------------------------------------------------------------ feeding

    async def _run(self) -> None:
        delay_s = RETRY_FIRST_S
        root = self._keys.root
        while True:
            try:
                await self._load()
                delay_s = RETRY_FIRST_S
                async with contextlib.aclosing(
                    self._store.watch(root, prefix_end(root), self.revision + 1)  # type: ignore[type-var]
                ) as batches:
                    async for batch in batches:
                        self._apply(batch)
            except Compacted as error:
                log.info("watch cache lists anew: %s", error)
            except MilpaError as error:
                log.warning("watch cache: %s; next try in %.1f s", error, delay_s)
                await asyncio.sleep(delay_s)
                delay_s = min(delay_s * 2, RETRY_MAX_S)

    def _ranges(self) -> Iterator[tuple[str, str]]:
        # Around events, log files and the controllers' records, which may be many and are of no use here.
        yield self._keys.objects, prefix_end(self._keys.objects)
        for kind in sorted(CACHED - {kind.lower() for kind in SLOTTED}):
            prefix = self._keys.prefix(kind)
            yield prefix, prefix_end(prefix)

    async def _load(self) -> None:
        """Reads everything at one revision and takes it as the new state."""
        objects: Objects = {kind: {} for kind in CACHED}
        revision = 0
        for start, end in self._ranges():
            while start:
                page = await self._store.scan(start, end, limit=PAGE, revision=revision)
                revision, start = page.revision, page.next_key
                for entry in page.entries:
                    found = self._keys.parse(entry.key)
                    if found is not None and found.kind in CACHED:
                        objects[found.kind][found.name] = Item.of(entry, found.kind, found.name)
        before, self._objects = self._objects, objects
        if self.history.floor and revision >= self.history.revision:
            self.history.extend(_difference(before, objects, revision), revision)
        else:
            self.history.reset(revision)
        self._advance(revision)

    def _apply(self, batch: WatchBatch) -> None:
        events = []
        moved = self._put_in(batch) if any(change.deleted for change in batch.changes) else frozenset()
        for change in batch.changes:
            entry = change.entry
            found = self._keys.parse(entry.key)
            if found is None or found.kind not in CACHED:
                continue
            of_kind = self._objects[found.kind]
            before = of_kind.get(found.name)
            if not change.deleted:
                after = of_kind[found.name] = Item.of(entry, found.kind, found.name)
                events.append(Event(entry.mod_revision, before, after))
            elif (
                before is not None
                and before.key == entry.key
                and (entry.mod_revision, found.kind, found.name) not in moved
            ):
                del of_kind[found.name]
                events.append(Event(entry.mod_revision, before, None))
        self.history.extend(events, batch.revision)
        self._advance(batch.revision)
        if events:
            self.moved.set()

    def _put_in(self, batch: WatchBatch) -> frozenset[tuple[int, str, str]]:
        """What is written in ``batch``, by revision: a key deleted at the same revision has moved to another slot."""
        found = ((c.entry.mod_revision, self._keys.parse(c.entry.key)) for c in batch.changes if not c.deleted)
        return frozenset((revision, key.kind, key.name) for revision, key in found if key is not None)

    def _advance(self, revision: int) -> None:
        self.revision = revision
        while self._waiting and self._waiting[0][0] <= revision:
            future = heappop(self._waiting)[2]
            if not future.done():
                future.set_result(None)


def _difference(before: Objects, after: Objects, revision: int) -> list[Event]:
    """The changes that lead from one state to the other; removals count as of ``revision``."""
    events = [
        Event(item.revision, before[kind].get(name), item)
        for kind, items in after.items()
        for name, item in items.items()
        if (old := before[kind].get(name)) is None or old.revision != item.revision
    ]
    events.sort(key=lambda event: event.revision)
    gone = (item for kind, items in before.items() for name, item in items.items() if name not in after[kind])
    return events + [Event(revision, item, None) for item in gone]


def _retrieve(task: asyncio.Task[Any]) -> None:
    """Marks a failed read as seen: all who waited for it may be gone."""
    if not task.cancelled():
        task.exception()
