"""Deletes: a wish for what lives outside the store, which a controller fulfils; the key itself for what does not."""

import asyncio
from dataclasses import dataclass

from milpa_ray.api.meta import ObjectReference
from milpa_ray.errors import Conflict, Invalid, NotFound
from milpa_ray.proto import milpa_pb2 as pb
from milpa_ray.server.items import Item
from milpa_ray.server.objects import deleting, kind_called, refuse_unmade, terminating
from milpa_ray.server.results import failed, raise_if_lost
from milpa_ray.server.writes import MAX_CALL_OBJECTS, UPDATE_TRIES, WriteContext
from milpa_ray.store.group import Verdict, WriteGroup
from milpa_ray.store.port import Compare, Delete, Op, Put

CHILD_KIND = {"deployment": "replicaset", "replicaset": "pod"}
IN_FLIGHT = 128
EVENTS = frozenset({"Service", "Secret"})


@dataclass(slots=True)
class _Target:
    """One object to delete."""

    ref: pb.Ref
    kind: str = ""
    """Canonical name."""
    item: Item | None = None


class Deleter:
    """Deletes the objects of one call after another, or of many at a time."""

    def __init__(self, context: WriteContext) -> None:
        self._to = context
        self._slots = asyncio.Semaphore(IN_FLIGHT)

    async def delete(self, request: pb.DeleteRequest) -> list[pb.WriteResult]:
        """The result of each object, in order. DELETED means that it is gone, or will be once its end is proved.

        Raises:
            Invalid: the call itself is malformed.
            StoreUnavailable: it is not known what took effect; the same call may be repeated.
        """
        if len(request.refs) > MAX_CALL_OBJECTS:
            raise Invalid(f"a call takes at most {MAX_CALL_OBJECTS} objects, not {len(request.refs)}; split it")
        await self._to.cache.fresh()

        async def one(ref: pb.Ref) -> pb.WriteResult:
            async with self._slots:
                return await self._delete(_Target(ref), orphan=request.orphan)

        return list(await asyncio.gather(*map(one, request.refs)))

    async def _delete(self, target: _Target, *, orphan: bool) -> pb.WriteResult:
        ref = target.ref
        try:
            kind = kind_called(ref.kind)
            target.kind = kind.name
            if kind.name != "Node":
                refuse_unmade(kind)
            for _ in range(UPDATE_TRIES):
                self._find(target)
                assert target.item is not None
                op = await self._op(target.item, orphan=orphan)
                if op is None:
                    return self._deleted(target, target.item.revision)
                group = WriteGroup((Compare(target.item.key, target.item.revision),), (op,))
                outcome = await self._to.queue.commit(group)
                raise_if_lost(outcome)
                if outcome.verdict is Verdict.COMMITTED:
                    return self._removed(target, op, outcome.revision)
                await self._to.cache.fresh()
            raise Conflict("it was changed by others again and again meanwhile; try again")
        except (Invalid, NotFound, Conflict) as error:
            return failed(target.kind or ref.kind, ref.name, error)

    def _find(self, target: _Target) -> None:
        ref = target.ref
        what = f"{target.kind.lower()} {ref.name!r}"
        target.item = self._to.cache.get(target.kind.lower(), ref.name)
        if target.item is None:
            raise NotFound(f"there is no {what}")
        if ref.uid and target.item.meta.uid != ref.uid:
            raise NotFound(f"{what} is another object now: its uid is {target.item.meta.uid}, not {ref.uid}")

    async def _op(self, item: Item, *, orphan: bool) -> Op | None:
        """What to write; None: the wish is there already."""
        if item.kind == "node":
            return None if item.body.get("spec", {}).get("terminate") else Put(item.key, terminating(item.json))
        if item.kind in CHILD_KIND:
            # A child is created in a transaction that bumps its parent, so none can slip in behind this look.
            if not await self._has_children(item):
                return Delete(item.key)
        elif item.kind != "pod":
            return Delete(item.key)
        if item.meta.deleting:
            return None
        return Put(item.key, deleting(item.json, self._to.clock.now(), orphan=orphan and item.kind in CHILD_KIND))

    async def _has_children(self, item: Item) -> bool:
        uid = item.meta.uid
        mark = uid.encode()
        # Looking for the uid in the stored bytes first saves parsing all pods.
        owned = await self._to.turns.map(
            lambda child: mark in child.json and child.meta.owner_uid == uid,
            self._to.cache.items(CHILD_KIND[item.kind]),
        )
        return any(owned)

    def _removed(self, target: _Target, op: Op, revision: int) -> pb.WriteResult:
        if isinstance(op, Delete) and target.kind in EVENTS:
            self._to.events.record(_reference(target), f"{target.kind.lower()}-deleted")
        return self._deleted(target, revision)

    def _deleted(self, target: _Target, revision: int) -> pb.WriteResult:
        assert target.item is not None
        uid = target.item.meta.uid
        return pb.WriteResult(kind=target.kind, name=target.ref.name, outcome=pb.DELETED, uid=uid, revision=revision)


def _reference(target: _Target) -> ObjectReference:
    assert target.item is not None
    return ObjectReference(kind=target.kind, name=target.ref.name, uid=target.item.meta.uid)
