"""A range of the store held in memory: listed once, then followed by a watch.

Invariants: an item is never older than what was seen before; an own commit, once applied, is not undone by a watch
event from before it. Everything in here may die at any moment: the store is the truth. Objects are shared, with what
our own process writes too: nobody changes one in place.

The keys may become others on the way. What is known is kept as *spans*: bounds, and a revision up to which everything
inside is known. All spans together are what has been listed; the watch begins after the lowest.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from milpa_ray.controller.pacing import Backoff
from milpa_ray.errors import Compacted, Retryable
from milpa_ray.planner.snapshot import Versioned
from milpa_ray.store.port import Entry, Store
from milpa_ray.store.reading import pages

log = logging.getLogger(__name__)

T = TypeVar("T")
Decode = Callable[[str, bytes], T | None]
OnChange = Callable[[str, Versioned[T] | None, Versioned[T] | None], None]

PARSE_CHUNK = 200
"""Entries parsed before other tasks get a turn: at 10 to 40 us each, a few milliseconds."""


@dataclass(frozen=True, slots=True)
class Span:
    """Keys from ``start`` to before ``end``, known up to ``revision``."""

    start: str
    end: str
    revision: int = 0

    def cut(self, start: str, end: str) -> "Span":
        """What of it lies within these bounds; may be empty."""
        return replace(self, start=max(start, self.start), end=min(end, self.end))

    def __bool__(self) -> bool:
        return self.start < self.end


class KeyView(Generic[T]):
    """Keys from ``start`` to before ``end``. ``decode`` gives None for keys that are of no interest; ``on_change`` is
    told (key, before, after) of each change, in order, and must not block."""

    def __init__(
        self, store: Store, bounds: tuple[str, str], decode: Decode[T], on_change: OnChange[T], backoff: Backoff
    ) -> None:
        self._store = store
        self._start, self._end = bounds
        self._decode = decode
        self._on_change = on_change
        self._backoff = backoff
        self._spans: list[Span] = []
        self._turn: asyncio.Timeout | None = None
        self._buried: dict[str, int] = {}
        self._writing: dict[str, tuple[bytes, T]] = {}
        self.items: dict[str, Versioned[T]] = {}
        self.revision = 0
        self.synced = asyncio.Event()

    async def run(self) -> None:
        """Lists and follows, for ever."""
        while True:
            try:
                await self._keep_up()
                self._spans.clear()
            except Retryable as error:
                self._spans.clear()
                if not isinstance(error, Compacted):
                    log.warning("view of %s: %s; listing anew", self._start, error)
                await self._backoff.sleep()

    async def _keep_up(self) -> None:
        """Lists what is missing and follows, until the watch ends; anew after each move."""
        while True:
            turn = self._turn = asyncio.timeout(None)  # no limit of time: ``move`` ends the turn by it
            try:
                async with turn:
                    await self._list_missing()
                    self.synced.set()
                    self._backoff.reset()
                    return await self._follow()
            except TimeoutError:
                if not turn.expired():
                    raise
            finally:
                self._turn = None

    def move(self, bounds: tuple[str, str]) -> None:
        """From now on the keys are these. Items inside stay; those outside go at once, as if deleted; what is new is
        listed, and ``synced`` is unset until it has been."""
        if bounds == (self._start, self._end):
            return
        if not self._missing() and len({span.revision for span in self._spans}) == 1:
            self._spans = [Span(self._start, self._end, self._spans[0].revision)]
        self._start, self._end = bounds
        self._spans = [kept for span in self._spans if (kept := span.cut(*bounds))]
        for key in [key for key in self.items if not self._covers(key)]:
            self._set(key, None)
        if self._missing():
            self.synced.clear()
        if self._turn is not None and not self._turn.expired():
            self._turn.reschedule(asyncio.get_running_loop().time())

    def _covers(self, key: str) -> bool:
        return self._start <= key < self._end

    def _missing(self) -> list[Span]:
        """What has not been listed."""
        known = sorted(self._spans, key=lambda span: span.start)
        starts = [self._start, *(span.end for span in known)]
        ends = [*(span.start for span in known), self._end]
        return [gap for start, end in zip(starts, ends, strict=True) if (gap := Span(start, end))]

    async def _list_missing(self) -> None:
        while missing := self._missing():
            revision = await self._list(missing[0])
            if listed := replace(missing[0], revision=revision).cut(self._start, self._end):
                self._spans.append(listed)
        self.revision = max(self.revision, min(span.revision for span in self._spans))

    async def _list(self, span: Span) -> int:
        """Brings the items of the span up to date; the revision that they are of."""
        listed: set[str] = set()
        revision = 0
        async for page in pages(self._store, span.start, span.end):
            revision = page.revision
            for at in range(0, len(page.entries), PARSE_CHUNK):
                for entry in page.entries[at : at + PARSE_CHUNK]:
                    listed.add(entry.key)
                    self.apply_entry(entry)
                await asyncio.sleep(0)
        inside = [key for key in self.items if span.start <= key < span.end]
        for key in inside:
            if key not in listed and self.items[key].revision <= revision:
                self._set(key, None)
        return revision

    async def _follow(self) -> None:
        async for batch in self._store.watch(self._start, self._end, self.revision + 1):
            for at in range(0, len(batch.changes), PARSE_CHUNK):
                for change in batch.changes[at : at + PARSE_CHUNK]:
                    if change.deleted:
                        self.remove(change.entry.key, change.entry.mod_revision)
                    else:
                        self.apply_entry(change.entry)
                if len(batch.changes) > PARSE_CHUNK:
                    await asyncio.sleep(0)
            self.revision = max(self.revision, batch.revision)
            self._spans = [replace(span, revision=max(span.revision, batch.revision)) for span in self._spans]
            if self._buried:
                self._buried = {k: r for k, r in self._buried.items() if r > self.revision}

    def _is_news(self, key: str, revision: int) -> bool:
        item = self.items.get(key)
        if not self._covers(key) or (item is not None and item.revision >= revision):
            return False
        # The watch tells again what a span that was listed later already shows, or shows the end of.
        if any(span.start <= key < span.end and revision <= span.revision for span in self._spans):
            return False
        return self._buried.get(key, 0) < revision

    def apply_entry(self, entry: Entry) -> None:
        """Takes over what the store has, unless something newer is known. Parses each revision at most once."""
        if not self._is_news(entry.key, entry.mod_revision):
            return
        own = self._writing.get(entry.key)
        obj: T | None
        if own is not None and own[0] == entry.value:
            obj = own[1]
        else:
            try:
                obj = self._decode(entry.key, entry.value)
            except ValueError as error:
                log.error("unreadable record %s at revision %d is ignored: %s", entry.key, entry.mod_revision, error)
                return
        if obj is not None:
            self._set(entry.key, Versioned(entry.key, obj, entry.mod_revision))

    @contextmanager
    def writing(self, writes: Mapping[str, tuple[bytes, T]]) -> Iterator[None]:
        """Our process is writing ``writes`` (key, then value and the object it was made from) as long as this lasts.

        The watch often tells of a commit before its answer comes. An entry with exactly these bytes is taken over as
        its object, not parsed. It changes nothing else: what became of the commit is told by ``apply``, ``remove``
        and ``reread`` as ever.
        """
        self._writing.update(writes)
        try:
            yield
        finally:
            for key, write in writes.items():
                if self._writing.get(key) is write:  # else a later write of the key is under way
                    del self._writing[key]

    def apply(self, key: str, obj: T, revision: int) -> None:
        """Takes over an own commit."""
        if self._is_news(key, revision):
            self._set(key, Versioned(key, obj, revision))

    def remove(self, key: str, revision: int) -> None:
        """The key was deleted at ``revision``."""
        item = self.items.get(key)
        if item is not None and item.revision >= revision:
            return
        if revision > self.revision:
            self._buried[key] = revision
        if item is not None:
            self._set(key, None)

    def _set(self, key: str, item: Versioned[T] | None) -> None:
        before = self.items.get(key)
        if item is None:
            self.items.pop(key, None)
        else:
            self.items[key] = item
        self._on_change(key, before, item)

    async def reread(self, key: str) -> None:
        """Reads one key linearizably, for when a commit's outcome is unknown.

        Raises:
            StoreUnavailable
        """
        revision = await self._store.revision()
        entry = await self._store.get(key)
        if entry is None:
            self.remove(key, revision)
        else:
            self.apply_entry(entry)
