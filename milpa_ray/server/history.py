"""The last changes of the watch cache, for watches to resume from and to read at their own pace.

All watches read one bounded log; none has a queue of its own. One that is overtaken by the log's end is told so and
lists anew. Invariants: revisions never fall along the log; every change after ``floor`` is in it.
"""

import asyncio
import contextlib
from bisect import bisect_right
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from milpa_ray.errors import WatchExpired
from milpa_ray.server.items import Item

MAX_BATCH = 500


@dataclass(frozen=True, slots=True)
class Event:
    """One object's change: ``before`` is None when it is new, ``after`` when it is gone."""

    revision: int
    before: Item | None
    after: Item | None

    @property
    def size(self) -> int:
        return sum(len(item.json) for item in (self.before, self.after) if item is not None)


class History:
    """``max_events`` and ``max_bytes`` bound it; bytes count old and new state of each change."""

    def __init__(self, max_events: int = 50_000, max_bytes: int = 128 << 20) -> None:
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._events: list[Event] = []
        self._first = 0
        """Sequence number of ``_events[0]``; counts all events ever, and the resets."""
        self._bytes = 0
        self._more = asyncio.Event()
        self.floor = 0
        self.revision = 0
        """Everything up to here has been told."""

    def reset(self, revision: int) -> None:
        """Forgets everything: what is watched from before ``revision`` has expired."""
        self._first += len(self._events) + 1
        self._events = []
        self._bytes = 0
        self.floor = self.revision = revision
        self._wake()

    def extend(self, events: Sequence[Event], revision: int) -> None:
        """Adds changes in order; ``revision`` is how far they reach (events may be none)."""
        self._events.extend(events)
        self._bytes += sum(event.size for event in events)
        self.revision = revision
        self._trim()
        self._wake()

    async def follow(self, revision: int, idle_s: float) -> AsyncIterator[tuple[Sequence[Event], int]]:
        """Batches of changes after ``revision``, each with the revision up to which they reach; changes of one revision
        are never torn apart. An empty batch comes after each ``idle_s`` seconds without change.

        Raises:
            WatchExpired: the changes are not known any more, or the watcher reads too slowly.
        """
        if revision < self.floor:
            raise WatchExpired(f"revision {revision} is too old: changes are known from {self.floor} on; list anew")
        at = self._first + bisect_right(self._events, revision, key=lambda event: event.revision)
        while True:
            if at < self._first:
                raise WatchExpired("the watcher is too slow: changes that it has not read are forgotten; list anew")
            batch = self._slice(at - self._first)
            at += len(batch)
            if batch:
                at_end = at == self._first + len(self._events)
                yield batch, self.revision if at_end else batch[-1].revision
                continue
            more = self._more
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(more.wait(), idle_s)
            if not more.is_set():
                yield (), self.revision

    def _slice(self, start: int) -> Sequence[Event]:
        end = min(start + MAX_BATCH, len(self._events))
        while 0 < end < len(self._events) and self._events[end].revision == self._events[end - 1].revision:
            end += 1
        return self._events[start:end]

    def _trim(self) -> None:
        if len(self._events) <= self._max_events and self._bytes <= self._max_bytes:
            return
        # A quarter at once, so that moving the rest down costs little per event.
        events, size, drop = self._events, self._bytes, 0
        while drop < len(events) and (
            len(events) - drop > self._max_events * 3 // 4 or size > self._max_bytes * 3 // 4
        ):
            size -= events[drop].size
            drop += 1
        while 0 < drop < len(events) and events[drop].revision == events[drop - 1].revision:
            size -= events[drop].size
            drop += 1
        self.floor = events[drop - 1].revision
        self._first += drop
        self._bytes = size
        del events[:drop]

    def _wake(self) -> None:
        self._more.set()
        self._more = asyncio.Event()
