"""Create, update and apply: each object by a compare-and-swap of its own, gathered into group commits.

A call works through its objects in slices, a few at a time; all calls together have a bounded number of slices in
flight, so a call of ten thousand objects neither fills the memory nor keeps a small one waiting. No leader is needed:
who wins is decided by the store.
"""

import asyncio
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic_core import from_json

from milpa_ray.api import Resource
from milpa_ray.clock import Clock
from milpa_ray.errors import AlreadyExists, Conflict, Ended, Invalid, MilpaError, NotFound
from milpa_ray.events import EventRecorder
from milpa_ray.keys import Keys
from milpa_ray.proto import milpa_pb2 as pb
from milpa_ray.server.cache import WatchCache
from milpa_ray.server.commit_queue import CommitQueue
from milpa_ray.server.items import Item
from milpa_ray.server.objects import checked_uid, decode, new_object, updated_object
from milpa_ray.server.results import failed, raise_if_lost
from milpa_ray.server.turns import Turns
from milpa_ray.store.group import Verdict, WriteGroup
from milpa_ray.store.port import Compare, Put

SLICE = 64
CALL_SLICES = 4
"""Slices of one call in flight."""
SERVER_SLICES = 32
"""Slices of all calls in flight: bounds the objects that are parsed and not yet committed."""
MAX_CALL_OBJECTS = 10_000
UPDATE_TRIES = 8
CREATED_EVENTS = frozenset({"Pod", "Service", "Secret"})
UPDATED_EVENTS = frozenset({"Pod", "Service"})


@dataclass(slots=True)
class _Wanted:
    """One object of a call. ``result`` is set once its fate is decided."""

    verb: pb.Verb
    data: bytes
    uid: str
    resource: Resource | None = None
    key: str = ""
    current: Item | None = None
    new: bytes = b""
    result: pb.WriteResult | None = None

    def end(self, outcome: pb.Outcome, uid: str, revision: int = 0) -> None:
        assert self.resource is not None
        kind, name = self.resource.KIND, self.resource.name
        self.result = pb.WriteResult(kind=kind, name=name, outcome=outcome, uid=uid, revision=revision)

    def fail(self, error: MilpaError) -> None:
        kind, name = (self.resource.KIND, self.resource.name) if self.resource is not None else ("", "")
        self.result = failed(kind, name, error)


@dataclass(frozen=True, slots=True)
class WriteContext:
    """What all writes of a server share."""

    keys: Keys
    clock: Clock
    cache: WatchCache
    queue: CommitQueue
    turns: Turns
    events: EventRecorder


class Writer:
    """Writes the objects of one call after another, or of many at a time."""

    def __init__(self, context: WriteContext) -> None:
        self._to = context
        self._slices = asyncio.Semaphore(SERVER_SLICES)

    async def write(self, request: pb.WriteRequest) -> list[pb.WriteResult]:
        """The result of each object, in order.

        Raises:
            Invalid: the call itself is malformed.
            StoreUnavailable: it is not known what took effect; the same call may be repeated.
        """
        wanted = self._wanted(request)
        if request.verb != pb.CREATE or request.dry_run:
            await self._to.cache.fresh()
        call_slices = asyncio.Semaphore(CALL_SLICES)

        async def one(part: list[_Wanted]) -> None:
            async with call_slices, self._slices:
                await self._write_slice(part, dry_run=request.dry_run)

        try:
            async with asyncio.TaskGroup() as group:
                for at in range(0, len(wanted), SLICE):
                    group.create_task(one(wanted[at : at + SLICE]))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return [item.result for item in wanted if item.result is not None]

    def _wanted(self, request: pb.WriteRequest) -> list[_Wanted]:
        count = len(request.objects)
        if count > MAX_CALL_OBJECTS:
            raise Invalid(f"a call takes at most {MAX_CALL_OBJECTS} objects, not {count}; split it")
        if request.uids and len(request.uids) != count:
            raise Invalid(f"{len(request.uids)} uids for {count} objects: one each is needed, or none")
        uids = [checked_uid(uid) for uid in request.uids] or [str(uuid.uuid4()) for _ in range(count)]
        if len(set(uids)) < count:
            raise Invalid("two objects have the same uid")
        return [_Wanted(request.verb, data, uid) for data, uid in zip(request.objects, uids, strict=True)]

    async def _write_slice(self, part: Sequence[_Wanted], *, dry_run: bool) -> None:
        await self._to.turns.map(self._plan, part)
        for item in part if dry_run else ():
            self._refuse_existing(item)
        tries = 0
        while open_items := [item for item in part if item.result is None]:
            tries += 1
            if dry_run:
                for item in open_items:
                    self._done(item, 0, dry_run=True)
                return
            groups = (WriteGroup((Compare(i.key, _revision(i.current)),), (Put(i.key, i.new),)) for i in open_items)
            outcomes = await asyncio.gather(*(self._to.queue.commit(group) for group in groups))
            for item, outcome in zip(open_items, outcomes, strict=True):
                raise_if_lost(outcome)
                if outcome.verdict is Verdict.COMMITTED:
                    self._done(item, outcome.revision)
                elif outcome.verdict is Verdict.CONFLICT:
                    entry = outcome.current[0]
                    before = item.current
                    item.current = Item.of(entry, "", "") if entry is not None else None
                    self._conflict(item, before, last=tries >= UPDATE_TRIES)
                else:
                    item.fail(outcome.error or Conflict("not written"))

    # ------------------------------------------------------------ one object

    def _plan(self, item: _Wanted) -> None:
        """Parses the object and works out what to store."""
        try:
            item.resource = resource = decode(item.data)
        except MilpaError as error:
            item.result = failed(*_named(item.data), error)
            return
        kind = resource.KIND.lower()
        keys = self._to.keys
        item.key = keys.pod(resource.name) if kind == "pod" else keys.other(kind, resource.name)
        if item.verb != pb.CREATE:
            item.current = self._to.cache.get(kind, resource.name)
        self._next_state(item)

    def _next_state(self, item: _Wanted) -> None:
        """Sets what to store from ``current``, or the result when there is nothing to store."""
        assert item.resource is not None
        try:
            if item.current is not None:
                new = updated_object(item.current.json, item.resource)
                if new is not None:
                    item.new = new
                elif item.current.meta.uid == item.uid:  # created by an earlier try of this very call
                    item.end(pb.CREATED, item.uid, item.current.revision)
                else:
                    item.end(pb.UNCHANGED, item.current.meta.uid, item.current.revision)
            elif item.verb == pb.UPDATE:
                raise NotFound(f"there is no {item.resource.KIND.lower()} {item.resource.name!r} to update")
            else:
                item.new = new_object(item.resource, item.uid, self._to.clock.now()).to_json()
        except MilpaError as error:
            item.fail(error)

    def _refuse_existing(self, item: _Wanted) -> None:
        if item.result is None and item.verb == pb.CREATE and item.resource is not None:
            stored = self._to.cache.get(item.resource.KIND.lower(), item.resource.name)
            if stored is not None:
                item.fail(_exists(item, stored))

    def _conflict(self, item: _Wanted, before: Item | None, *, last: bool) -> None:
        """Someone has written the key meanwhile, maybe an earlier try of this very call."""
        if before is None and item.current is not None:
            if item.current.meta.uid == item.uid:
                self._done(item, item.current.revision)
                return
            if item.verb == pb.CREATE:
                item.fail(_exists(item, item.current))
                return
        if last:
            item.fail(Conflict("it was changed by others again and again meanwhile; try again"))
            return
        self._next_state(item)

    def _done(self, item: _Wanted, revision: int, *, dry_run: bool = False) -> None:
        assert item.resource is not None
        kind = item.resource.KIND
        created = item.current is None or item.current.meta.uid == item.uid
        uid = item.uid if item.current is None else item.current.meta.uid
        item.end(pb.CREATED if created else pb.UPDATED, uid, revision)
        if kind in (CREATED_EVENTS if created else UPDATED_EVENTS) and not dry_run:
            involved = item.resource.model_copy(
                update={"metadata": item.resource.metadata.model_copy(update={"uid": uid})}
            )
            self._to.events.record(involved, f"{kind.lower()}-{'created' if created else 'updated'}")


def _exists(item: _Wanted, stored: Item) -> AlreadyExists | Ended:
    assert item.resource is not None
    what = f"{item.resource.KIND.lower()} {item.resource.name!r}"
    if stored.meta.deleting:
        return Ended(f"{what} exists and is being deleted; its name is free once its end is proved")
    return AlreadyExists(f"{what} exists already")


def _revision(current: Item | None) -> int:
    return current.revision if current is not None else 0


def _named(data: bytes) -> tuple[str, str]:
    """Kind and name of an object that can't be stored, as far as they can be read."""
    try:
        body = from_json(data)
        return str(body["kind"])[:64], str(body["metadata"]["name"])[:256]
    except (ValueError, KeyError, TypeError):
        return "", ""
