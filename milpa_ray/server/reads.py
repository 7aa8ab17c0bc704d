"""Lists and watches: what a query finds in a source, as replies of bounded size.

Objects come from the watch cache; events and log files, which are not cached, from the store itself.
"""

import json
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from milpa_ray.api import Kind
from milpa_ray.api.selectors import Selector, parse_selector
from milpa_ray.errors import Compacted, NotFound, WatchExpired
from milpa_ray.keys import Keys, prefix_end
from milpa_ray.proto import milpa_pb2 as pb
from milpa_ray.server.cache import CACHED, WatchCache
from milpa_ray.server.history import Event
from milpa_ray.server.items import Item
from milpa_ray.server.objects import kind_called
from milpa_ray.server.staleness import QuickReads
from milpa_ray.server.turns import Turns
from milpa_ray.store.port import Change, Store
from milpa_ray.store.reading import pages

CHUNK_OBJECTS = 500
CHUNK_BYTES = 1 << 20
MARK_S = 10.0
"""A watch without changes gets a mark this often, so that it can resume close to the present."""


@dataclass(frozen=True, slots=True)
class Query:
    """Which objects: of a kind, all of them or one by name, and only those that the selector matches."""

    kind: Kind
    name: str
    selector: Selector

    @property
    def key_kind(self) -> str:
        """The kind as in keys."""
        return self.kind.name.lower()

    def matches(self, item: Item) -> bool:
        if self.name and item.name != self.name:
            return False
        return not self.selector or self.selector.matches(item.meta.labels)


class Source(Protocol):
    """Where objects come from."""

    def present(self, query: Query) -> AsyncIterator[pb.ListReply]:
        """Chunks of what is there now, at least one, all with the revision that the list is of."""

    def changes(self, query: Query, revision: int) -> AsyncIterator[pb.WatchReply]:
        """Changes after ``revision``, for ever. Raises ``WatchExpired`` when they are not known any more."""


class Reader:
    """Answers List and Watch."""

    def __init__(self, store: Store, keys: Keys, cache: WatchCache, quick: QuickReads, turns: Turns) -> None:
        self._cached: Source = CachedObjects(cache, quick, turns)
        self._stored: Source = StoredRecords(store, keys)

    async def list(self, request: pb.ListRequest) -> AsyncIterator[pb.ListReply]:
        """Chunks of the objects asked for, by name; at least one.

        Raises:
            NotFound: the one asked for by name does not exist.
            Invalid: unknown kind, or a selector that is none.
        """
        query = Query(kind_called(request.kind), request.name, parse_selector(request.label_selector))
        async for reply in self._source(query).present(query):
            if query.name and not reply.objects:
                raise NotFound(f"there is no {query.key_kind} {query.name!r}")
            yield reply

    async def watch(self, request: pb.WatchRequest) -> AsyncIterator[pb.WatchReply]:
        """The objects present and a SYNCED event (with revision 0), then changes for ever.

        Raises:
            WatchExpired: list anew.
            Invalid: unknown kind, or a selector that is none.
        """
        query = Query(kind_called(request.kind), request.name, parse_selector(request.label_selector))
        source, revision = self._source(query), request.revision
        if not revision:
            async for reply in source.present(query):
                revision = reply.revision
                # Without a revision: should the stream break now, it has to begin anew.
                yield pb.WatchReply(events=[pb.WatchEvent(change=pb.PRESENT, object=found) for found in reply.objects])
            yield pb.WatchReply(events=[pb.WatchEvent(change=pb.SYNCED)], revision=revision)
        async for changes in source.changes(query, revision):
            yield changes

    def _source(self, query: Query) -> Source:
        return self._cached if query.key_kind in CACHED else self._stored


class CachedObjects:
    """Objects in the watch cache."""

    def __init__(self, cache: WatchCache, quick: QuickReads, turns: Turns) -> None:
        self._cache = cache
        self._quick = quick
        self._turns = turns

    async def present(self, query: Query) -> AsyncIterator[pb.ListReply]:
        if query.name:
            item, revision = await self._quick.get(query.key_kind, query.name)
            items = [item] if item is not None and query.matches(item) else []
        else:
            revision = await self._cache.fresh()
            items = self._cache.items(query.key_kind)
            if query.selector:
                matching = await self._turns.map(query.matches, items)
                items = [item for item, matches in zip(items, matching, strict=True) if matches]
        for reply in _chunks(items, revision):
            yield reply

    async def changes(self, query: Query, revision: int) -> AsyncIterator[pb.WatchReply]:
        if revision > self._cache.revision:  # told by a server that was ahead of us
            await self._cache.fresh()
        if revision > self._cache.revision:
            raise WatchExpired(f"the store has not come to revision {revision}; was it restored? List anew")
        async for batch, upto in self._cache.history.follow(revision, MARK_S):
            told = [found for event in batch if (found := _told(query, event)) is not None]
            if told or not batch:
                yield pb.WatchReply(events=told, revision=upto)


class StoredRecords:
    """Events and log files: many, short-lived and seldom read, so they are not cached."""

    def __init__(self, store: Store, keys: Keys) -> None:
        self._store = store
        self._keys = keys

    async def present(self, query: Query) -> AsyncIterator[pb.ListReply]:
        if query.name:
            revision = await self._store.revision()
            entry = await self._store.get(self._keys.other(query.key_kind, query.name))
            items = [Item.of(entry, query.key_kind, query.name)] if entry is not None else []
            yield next(_chunks(items, revision))
            return
        prefix = self._keys.prefix(query.key_kind)
        async for page in pages(self._store, prefix, prefix_end(prefix), limit=CHUNK_OBJECTS):
            items = [Item.of(entry, query.key_kind, entry.key[len(prefix) :]) for entry in page.entries]
            for reply in _chunks([item for item in items if query.matches(item)], page.revision):
                yield reply

    async def changes(self, query: Query, revision: int) -> AsyncIterator[pb.WatchReply]:
        prefix = self._keys.prefix(query.key_kind)
        try:
            async for batch in self._store.watch(prefix, prefix_end(prefix), revision + 1):
                told = [self._told(query, change, prefix) for change in batch.changes]
                yield pb.WatchReply(events=[event for event in told if event is not None], revision=batch.revision)
        except Compacted as error:
            raise WatchExpired(f"{error}; list anew") from None

    def _told(self, query: Query, change: Change, prefix: str) -> pb.WatchEvent | None:
        item = Item.of(change.entry, query.key_kind, change.entry.key[len(prefix) :])
        if change.deleted:
            if query.name and item.name != query.name:
                return None
            # What it was is not known any more, so a selector can't tell: it is told to all.
            item.json = json.dumps({"kind": query.kind.name, "metadata": {"name": item.name}}).encode()
            return pb.WatchEvent(change=pb.REMOVED, object=_object(item))
        if not query.matches(item):
            return None
        kind = pb.ADDED if change.entry.version == 1 else pb.MODIFIED
        return pb.WatchEvent(change=kind, object=_object(item))


def _object(item: Item, revision: int = 0) -> pb.Object:
    return pb.Object(json=item.shown, revision=revision or item.revision, name=item.name)


def _chunks(items: Iterable[Item], revision: int) -> Iterator[pb.ListReply]:
    """Replies of bounded size, at least one."""
    reply, size, sent = pb.ListReply(revision=revision), 0, False
    for item in items:
        reply.objects.append(_object(item))
        size += len(item.json)
        if len(reply.objects) >= CHUNK_OBJECTS or size >= CHUNK_BYTES:
            yield reply
            reply, size, sent = pb.ListReply(revision=revision), 0, True
    if reply.objects or not sent:
        yield reply


def _told(query: Query, event: Event) -> pb.WatchEvent | None:
    """What a watcher is told of a change; None when it is not concerned."""
    item = event.after or event.before
    if item is None or item.kind != query.key_kind:
        return None
    before = event.before if event.before is not None and query.matches(event.before) else None
    after = event.after if event.after is not None and query.matches(event.after) else None
    if after is not None:
        return pb.WatchEvent(change=pb.MODIFIED if before else pb.ADDED, object=_object(after))
    if before is not None:
        return pb.WatchEvent(change=pb.REMOVED, object=_object(event.after or before, event.revision))
    return None
