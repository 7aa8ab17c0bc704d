"""A shard: owns a range of slots and keeps its pods and their nodes in step with the store.

``Shard`` lives one incarnation after another: it joins under its lasting id with a fresh uuid and a lease, waits until
the map lists it, and serves its range with ``SlotRange`` until the lease is lost or the map leaves it out. It
follows the map version by version; after one that it has missed, others may have served its slots meanwhile, so it
serves them as if they were new.
"""

import asyncio
import logging
from collections import deque
from typing import Any

from milpa_ray.controller.committing import Deposed, Lease
from milpa_ray.controller.deps import ShardDeps
from milpa_ray.controller.identifiers import make_uuid
from milpa_ray.controller.pacing import Backoff
from milpa_ray.controller.slot_range import SlotRange
from milpa_ray.controller.view import KeyView
from milpa_ray.errors import MilpaError, first_cause
from milpa_ray.planner.membership import ShardMap
from milpa_ray.planner.snapshot import Versioned
from milpa_ray.ports import Token
from milpa_ray.store.port import Compare, Put, Txn

log = logging.getLogger(__name__)


class Shard:
    """One shard by its lasting ``shard_id``."""

    def __init__(self, deps: ShardDeps, shard_id: str) -> None:
        self._deps = deps
        self._id = shard_id
        self.incarnation = ""
        self.range: SlotRange | None = None
        self._version = 0
        """The map's version that ``range`` follows."""

    async def run(self) -> None:
        """Serves for ever; the outermost loop, and the only one that catches everything."""
        backoff = Backoff(self._deps.rng, self._deps.limits.retry_first_s, self._deps.limits.lease_ttl_s)
        while True:
            try:
                await self._live(backoff)
            except* Deposed as group:
                log.warning("shard %s: %s; starting anew", self._id, first_cause(group))
            except* MilpaError as group:
                log.warning("shard %s: %s; starting anew", self._id, first_cause(group))
            except* Exception:
                log.exception("shard %s failed; starting anew", self._id)
            await backoff.sleep()

    async def _live(self, backoff: Backoff) -> None:
        """One incarnation, from joining to the loss of its lease."""
        deps = self._deps
        self.incarnation = make_uuid(deps.rng)
        lease = deps.lease()
        try:
            lease_id = await lease.start()
            await self._join(lease_id)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._serve(backoff))
                tasks.create_task(_until_lost(lease))
        finally:
            self.range = None
            await lease.stop()

    async def _join(self, lease_id: int) -> None:
        """Enters this incarnation as the member of its id.

        By comparing first: an incarnation that died may have an entry under way, which must not arrive after ours and
        take the seat of one that lives.

        Raises:
            StoreUnavailable
        """
        store, key = self._deps.store, self._deps.keys.prefix("member") + self._id
        member = Put(key, self.incarnation.encode(), lease_id)
        joined = False
        while not joined:
            before = await store.get(key)
            there = Compare(key, before.mod_revision if before is not None else 0)
            joined = (await store.commit(Txn((there,), (member,)))).ok

    async def _serve(self, backoff: Backoff) -> None:
        """Follows the map and serves what it gives this incarnation."""
        deps = self._deps
        changed = asyncio.Event()
        maps: deque[Versioned[ShardMap] | None] = deque()

        def on_map(_key: str, _before: object, after: Versioned[ShardMap] | None) -> None:
            maps.append(after)
            changed.set()

        def decode(key: str, value: bytes) -> ShardMap | None:
            return ShardMap.from_json(value) if key == deps.keys.map else None

        # The range end is the key with a zero byte appended: exactly this one key.
        view: KeyView[ShardMap] = KeyView(
            deps.store,
            (deps.keys.map, deps.keys.map + "\0"),
            decode,
            on_map,
            Backoff(deps.rng, deps.limits.retry_first_s, deps.limits.lease_ttl_s),
        )
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(view.run())
            serving: asyncio.Task[None] | None = None
            while True:
                await changed.wait()
                changed.clear()
                while maps:
                    serving = await self._follow(maps.popleft(), serving, tasks)
                if serving is not None:
                    backoff.reset()

    async def _follow(
        self, item: Versioned[ShardMap] | None, serving: asyncio.Task[None] | None, tasks: asyncio.TaskGroup
    ) -> asyncio.Task[None] | None:
        """Brings what is served in line with the map; the serving task after it."""
        entry = item.obj.entry(self._id, self.incarnation) if item is not None else None
        token = Token(item.obj.term, item.revision) if item is not None else Token(0, 0)
        followed, self._version = self._version, item.obj.version if item is not None else 0
        if entry is not None and self.range is not None and self._version == followed + 1:
            self.range.renew(entry, token)
            log.info("shard %s goes on with slots %d to %d under %s", self._id, entry.low, entry.high - 1, token)
            return serving
        if serving is not None:
            self.range = None
            serving.cancel()
            await asyncio.wait([serving])
        if entry is None:
            return None
        log.info("shard %s serves slots %d to %d under %s", self._id, entry.low, entry.high - 1, token)
        self.range = SlotRange(self._deps, entry, token)
        return tasks.create_task(self.range.run())

    def dump(self) -> dict[str, Any]:
        """State for people who debug; no secrets."""
        return {
            "shard": self._id,
            "incarnation": self.incarnation,
            "range": self.range.dump() if self.range is not None else None,
        }


async def _until_lost(lease: Lease) -> None:
    await lease.lost.wait()
    raise Deposed("its lease is lost")
