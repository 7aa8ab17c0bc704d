"""Leadership and the map: who coordinates, and which shard serves which slots.

Taking leadership and changing the map are one transaction each, and every commit of every controller compares the map's
revision. So whoever was replaced can write nothing more, from that very moment.

A shard whose member key has vanished stays in the map for a grace time, so that its restart moves no slots. Until the
map is rewritten its old incarnation is still the only owner of these slots, whether it runs on or not.
"""

import asyncio
import logging
import random
from collections.abc import Mapping

from milpa_ray.controller.committing import Deposed
from milpa_ray.controller.pacing import Backoff, persist
from milpa_ray.errors import Compacted, MilpaError
from milpa_ray.keys import Keys
from milpa_ray.limits import Limits
from milpa_ray.planner.membership import ShardMap, plan_map
from milpa_ray.ports import Token
from milpa_ray.store.port import Compare, Entry, Put, Store, Txn

log = logging.getLogger(__name__)


class Leadership:
    """One candidate's way to leadership and its token while it leads."""

    def __init__(self, store: Store, keys: Keys, incarnation: str) -> None:
        self._store = store
        self._keys = keys
        self.incarnation = incarnation
        self.map = ShardMap()
        self.token = Token(0, 0)
        # Own commits and changes of the map take turns: a commit under the token before would be fenced for nothing.
        self.writing = asyncio.Lock()

    async def campaign(self, lease: int, fresh_uuid: str) -> str:
        """Waits until no other leads, then leads. ``fresh_uuid`` becomes the cluster's if it has none.

        Returns:
            The cluster's uuid.

        Raises:
            StoreUnavailable
        """
        while True:
            revision = await self._store.revision()
            leader = await self._store.get(self._keys.leader)
            if leader is not None:
                log.info("another coordinator leads (%s); following", leader.value.decode())
                await self._until_gone(leader, revision)
                continue
            stored = await self._store.get(self._keys.map)
            uuid = await self._store.get(self._keys.uuid)
            old = ShardMap.from_json(stored.value) if stored is not None else ShardMap()
            new = ShardMap(old.term, self.incarnation, old.shards, old.version + 1)
            compares = [Compare(self._keys.leader, 0), _unchanged(self._keys.map, stored)]
            ops = [
                Put(self._keys.leader, self.incarnation.encode(), lease),
                Put(self._keys.map, new.to_json()),
            ]
            if uuid is None:
                compares.append(Compare(self._keys.uuid, 0))
                ops.append(Put(self._keys.uuid, fresh_uuid.encode()))
            result = await self._store.commit(Txn(tuple(compares), tuple(ops)))
            if result.ok:
                self._hold(new, result.revision)
                log.info("coordinator %s leads under %s", self.incarnation, self.token)
                return uuid.value.decode() if uuid is not None else fresh_uuid

    async def _until_gone(self, leader: Entry, revision: int) -> None:
        """Waits for the end of the leader's key, which was there after ``revision``. (From its own revision on, which
        may be compacted long since, the watch would end at once, again and again.)"""
        try:
            async for batch in self._store.watch(leader.key, leader.key + "\0", revision + 1):
                if any(change.deleted for change in batch.changes):
                    return
        except Compacted:
            return

    def _hold(self, shard_map: ShardMap, revision: int) -> None:
        self.map = shard_map
        self.token = Token(shard_map.term, revision)

    async def seat(self, members: Mapping[str, str]) -> None:
        """Rewrites the map for these members (incarnation by shard id), if it differs.

        Raises:
            Deposed: the map is no longer ours to write.
            StoreUnavailable
        """
        async with self.writing:
            new = plan_map(self.map, self.incarnation, members)
            if new == self.map:
                return
            txn = Txn((Compare(self._keys.map, self.token.revision),), (Put(self._keys.map, new.to_json()),))
            result = await self._store.commit(txn)
            if not result.ok:
                raise Deposed("the map was rewritten by another")
            self._hold(new, result.revision)
            log.info("shards %s under %s", ", ".join(f"{e.id}:{e.low}-{e.high - 1}" for e in new.shards), self.token)

    async def check(self) -> None:
        """Makes sure that we still lead, before a call that has an effect outside of the store.

        Raises:
            Deposed: the map names another coordinator.
            StoreUnavailable
        """
        await self._read()

    async def refresh(self) -> None:
        """Takes over the map's revision after a commit whose outcome is not known. ``writing`` must be held.

        Raises:
            Deposed: the map names another coordinator.
            StoreUnavailable
        """
        self._hold(*await self._read())

    async def _read(self) -> tuple[ShardMap, int]:
        stored = await self._store.get(self._keys.map)
        if stored is None:
            raise Deposed("the map is gone")
        found = ShardMap.from_json(stored.value)
        if found.coordinator != self.incarnation:
            raise Deposed(f"coordinator {found.coordinator} leads now")
        return found, stored.mod_revision


def _unchanged(key: str, entry: Entry | None) -> Compare:
    return Compare(key, entry.mod_revision if entry is not None else 0)


class Attendance:
    """Who holds a seat: the living members, and for ``grace_s`` seconds those of the map whose key is not there. Times
    are the running loop's; absence counts from when it was first seen here."""

    def __init__(self, grace_s: float) -> None:
        self._grace_s = grace_s
        self._absent_since: dict[str, float] = {}

    def seated(self, shard_map: ShardMap, members: Mapping[str, str], now: float) -> dict[str, str]:
        """Incarnation by shard id; an absent one has the incarnation that the map has."""
        absent = {e.id: e.incarnation for e in shard_map.shards if e.id not in members}
        self._absent_since = {id_: self._absent_since.get(id_, now) for id_ in absent}
        kept = {id_: absent[id_] for id_, since in self._absent_since.items() if now < since + self._grace_s}
        return {**kept, **members}

    def next_end(self, now: float) -> float | None:
        """When the next grace ends, if one runs."""
        ends = [since + self._grace_s for since in self._absent_since.values()]
        return min((end for end in ends if end > now), default=None)


async def keep_seated(
    leadership: Leadership, members: Mapping[str, str], changed: asyncio.Event, rng: random.Random, limits: Limits
) -> None:
    """Keeps the map in line with ``members`` (incarnation by shard id), which ``changed`` says to look at.

    Raises:
        Deposed
    """
    backoff = Backoff(rng, limits.retry_first_s, limits.lease_ttl_s)
    attendance = Attendance(limits.seat_grace_s)
    loop = asyncio.get_running_loop()
    changed.set()
    while True:
        try:
            async with asyncio.timeout_at(attendance.next_end(loop.time())):
                await changed.wait()
        except TimeoutError:
            log.info("a shard stayed away for %g s; its slots go to others", limits.seat_grace_s)
        changed.clear()
        try:
            await leadership.seat(attendance.seated(leadership.map, members, loop.time()))
            backoff.reset()
        except MilpaError as error:
            log.warning("the map could not be rewritten: %s; trying again", error)
            changed.set()
            await backoff.sleep()
            async with leadership.writing:
                await persist(leadership.refresh, backoff, "reading the map")
