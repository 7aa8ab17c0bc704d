"""Seats in the map: who keeps one while away, and for how long."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from milpa_ray.controller.leadership import Attendance, Leadership, keep_seated
from milpa_ray.keys import SLOTS, Keys
from milpa_ray.limits import Limits
from milpa_ray.planner.membership import ShardEntry, ShardMap
from milpa_ray.store.memory import MemoryStore
from tests.waiting import eventually

KEYS = Keys("test")
MAP = ShardMap(shards=(ShardEntry("a", "a1", 0, 512), ShardEntry("b", "b1", 512, SLOTS)))
LONG = Limits(seat_grace_s=3600.0)


class TestAttendance:
    def test_an_absent_shard_keeps_its_seat_until_the_grace_is_over(self) -> None:
        attendance = Attendance(10.0)
        assert attendance.seated(MAP, {"a": "a1"}, 100.0) == {"a": "a1", "b": "b1"}
        assert attendance.next_end(100.0) == 110.0
        assert attendance.seated(MAP, {"a": "a1"}, 109.9) == {"a": "a1", "b": "b1"}
        assert attendance.seated(MAP, {"a": "a1"}, 110.0) == {"a": "a1"}
        assert attendance.next_end(110.0) is None

    def test_who_comes_back_has_a_whole_grace_the_next_time(self) -> None:
        attendance = Attendance(10.0)
        attendance.seated(MAP, {"a": "a1"}, 100.0)
        assert attendance.seated(MAP, {"a": "a1", "b": "b2"}, 105.0) == {"a": "a1", "b": "b2"}
        assert attendance.next_end(105.0) is None
        assert attendance.seated(MAP, {"a": "a1"}, 112.0) == {"a": "a1", "b": "b1"}

    def test_a_newcomer_is_seated_beside_who_is_absent(self) -> None:
        attendance = Attendance(10.0)
        assert attendance.seated(MAP, {"a": "a1", "c": "c1"}, 0.0) == {"a": "a1", "b": "b1", "c": "c1"}

    def test_without_grace_nobody_absent_is_seated(self) -> None:
        assert Attendance(0.0).seated(MAP, {"a": "a1"}, 0.0) == {"a": "a1"}

    def test_each_absence_has_its_own_end(self) -> None:
        attendance = Attendance(10.0)
        attendance.seated(MAP, {"a": "a1"}, 0.0)
        attendance.seated(MAP, {}, 4.0)
        assert (attendance.next_end(4.0), attendance.next_end(10.0)) == (10.0, 14.0)


class Seats:
    """A leader that keeps the map, and what the map is."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.members: dict[str, str] = {}
        self.changed = asyncio.Event()

    @asynccontextmanager
    async def led(self, limits: Limits, name: str = "coordinator") -> AsyncIterator[None]:
        leadership = Leadership(self.store, KEYS, name)
        lease = await self.store.lease_grant(60)
        await leadership.campaign(lease, "uuid")
        async with asyncio.TaskGroup() as tasks:
            seating = tasks.create_task(keep_seated(leadership, self.members, self.changed, random.Random(1), limits))
            yield
            seating.cancel()
        await self.store.lease_revoke(lease)

    def come(self, shard_id: str, incarnation: str) -> None:
        self.members[shard_id] = incarnation
        self.changed.set()

    def go(self, shard_id: str) -> None:
        del self.members[shard_id]
        self.changed.set()

    async def map(self) -> dict[str, tuple[str, int, int]]:
        stored = await self.store.get(KEYS.map)
        assert stored is not None
        return {e.id: (e.incarnation, e.low, e.high) for e in ShardMap.from_json(stored.value).shards}

    async def becomes(self, **wanted: tuple[str, int, int]) -> None:
        async def same() -> bool:
            return await self.map() == wanted

        await eventually(same)

    async def revision(self) -> int:
        stored = await self.store.get(KEYS.map)
        assert stored is not None
        return stored.mod_revision


async def test_a_restart_within_the_grace_moves_no_slots_and_rewrites_the_map_once() -> None:
    seats = Seats()
    async with seats.led(LONG):
        seats.come("a", "a1")
        seats.come("b", "b1")
        await seats.becomes(a=("a1", 0, 512), b=("b1", 512, SLOTS))
        before = await seats.revision()
        seats.go("b")
        await eventually(lambda: not seats.changed.is_set())
        seats.come("b", "b2")
        await seats.becomes(a=("a1", 0, 512), b=("b2", 512, SLOTS))
        assert await seats.revision() == before + 1


async def test_slots_go_to_others_after_the_grace() -> None:
    seats = Seats()
    async with seats.led(Limits(seat_grace_s=0.2)):
        seats.come("a", "a1")
        seats.come("b", "b1")
        await seats.becomes(a=("a1", 0, 512), b=("b1", 512, SLOTS))
        seats.go("b")
        await eventually(lambda: not seats.changed.is_set())
        assert "b" in await seats.map()
        await seats.becomes(a=("a1", 0, SLOTS))


async def test_a_newcomer_gets_slots_at_once_though_another_is_away() -> None:
    seats = Seats()
    async with seats.led(LONG):
        seats.come("a", "a1")
        seats.come("b", "b1")
        await seats.becomes(a=("a1", 0, 512), b=("b1", 512, SLOTS))
        seats.go("b")
        seats.come("c", "c1")
        await seats.becomes(a=("a1", 0, 341), b=("b1", 341, 682), c=("c1", 682, SLOTS))


async def test_a_new_leader_gives_the_absent_a_grace_of_its_own_and_then_takes_their_slots() -> None:
    seats = Seats()
    async with seats.led(LONG):
        seats.come("a", "a1")
        await seats.becomes(a=("a1", 0, SLOTS))
    seats.members.clear()
    async with seats.led(LONG, "second"):
        await eventually(lambda: not seats.changed.is_set())
        assert await seats.map() == {"a": ("a1", 0, SLOTS)}
    async with seats.led(Limits(seat_grace_s=0.2), "third"):
        await seats.becomes()
