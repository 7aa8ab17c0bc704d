"""A shard whose range changes goes on with what stays: no new hello, no second listing, and its agents hear of the new
token by the next call."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any
from unittest import mock

from milpa_ray.api.pod import Pod, PodPhase
from milpa_ray.errors import StaleToken
from milpa_ray.keys import SLOTS, slot_of
from milpa_ray.planner.membership import ShardMap
from milpa_ray.ports import Token
from milpa_ray.store.port import Compare, Put, Txn, WatchBatch
from tests.simulation.cluster import coordinator, shard
from tests.simulation.machines import Machine
from tests.simulation.scenario import limits
from tests.simulation.store import SimStore
from tests.simulation.toys import a_pod
from tests.simulation.world import Faults, Ports, World

NAMES = [f"pod-{number}" for number in range(12)]
HALF = SLOTS // 2
LOW = {name for name in NAMES if slot_of(name) < HALF}
HIGH = set(NAMES) - LOW


class Town:
    """A quiet world with one shard, "0", and what it says to agents and lists."""

    def __init__(self, seed: int = 1) -> None:
        faults = Faults()
        faults.heal()
        self.world = World(seed, faults)
        self.calls: list[tuple[str, str, str, Token]] = []
        self.scans: list[tuple[str, str]] = []
        self._observe = self.world.network.observe
        self.world.network.observe = self._on_call
        self._scan = SimStore.scan

    def _on_call(self, process: Any, machine: Machine, verb: str, token: Token, uid: str) -> None:
        self._observe(process, machine, verb, token, uid)
        node = next(n for n in self.world.invariants.nodes.values() if n.status.instance_id == machine.instance.id)
        self.calls.append((process.name, verb, node.status.bound_pod_name, token))

    def run(self, story: Callable[[Ports], Any]) -> None:
        """Plays ``story`` after all pods run."""
        done: list[bool] = []

        async def user(ports: Ports) -> None:
            for name in NAMES:
                await ports.store.commit(Txn(ops=(Put(ports.keys.pod(name), a_pod(name).to_json()),)))
            await self.phases(ports, NAMES, PodPhase.RUNNING)
            await story(ports)
            done.append(True)
            await asyncio.Event().wait()

        async def drive() -> None:
            self.world.place("shard-0", "shard", shard("0"))
            self.world.place("coordinator-0", "coordinator", coordinator)
            self.world.place("user", "toy", user)
            while not done:  # noqa: ASYNC110
                await asyncio.sleep(0.1)

        def scan(store: SimStore, start: str, end: str, **options: Any) -> Any:
            if store._process.name == "shard-0" and start.startswith(self.world.keys.objects):
                self.scans.append((start, end))
            return self._scan(store, start, end, **options)

        with mock.patch.object(SimStore, "scan", scan):
            self.world.run(drive())

    @staticmethod
    async def phases(ports: Ports, names: Any, wanted: PodPhase) -> None:
        for name in names:
            while True:
                stored = await ports.store.get(ports.keys.pod(name))
                if stored is not None and Pod.from_json(stored.value).status.phase == wanted:
                    break
                await asyncio.sleep(0.1)

    async def owns(self, **wanted: tuple[int, int]) -> None:
        """Waits until the map says so, and a little for the shards to follow."""

        def ranges() -> dict[str, tuple[int, int]]:
            stored = self.world.server.entries[self.world.keys.map]
            return {f"s{e.id}": (e.low, e.high) for e in ShardMap.from_json(stored.value).shards}

        while ranges() != wanted:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        await asyncio.sleep(1.0)

    def forget(self) -> None:
        self.calls.clear()
        self.scans.clear()

    def hellos(self, process: str) -> Counter[str]:
        return Counter(pod for who, verb, pod, _ in self.calls if (who, verb) == (process, "hello"))

    async def generation_2(self, ports: Ports, names: Any) -> None:
        """Asks for another dispatch of these pods."""
        for name in names:
            key = ports.keys.pod(name)
            stored = await ports.store.get(key)
            pod = Pod.from_json(stored.value)  # type: ignore[union-attr]
            pod = pod.model_copy(update={"metadata": pod.metadata.model_copy(update={"generation": 2})})
            await ports.store.commit(Txn((Compare(key, stored.mod_revision),), (Put(key, pod.to_json()),)))  # type: ignore[union-attr]

    def incarnation(self, shard_id: str) -> str:
        stored = self.world.server.entries[self.world.keys.map]
        return next(e.incarnation for e in ShardMap.from_json(stored.value).shards if e.id == shard_id)

    @property
    def token(self) -> Token:
        return Token(1, self.world.server.entries[self.world.keys.map].mod_revision)


def test_a_shard_keeps_its_links_and_view_when_slots_leave_and_come_back() -> None:
    town = Town()

    async def story(ports: Ports) -> None:
        await town.owns(s0=(0, SLOTS))
        town.forget()
        place = town.world.place("shard-1", "shard", shard("1"))
        await town.owns(s0=(0, HALF), s1=(HALF, SLOTS))
        assert town.hellos("shard-0") == {}
        assert set(town.hellos("shard-1")) == HIGH
        assert town.scans == []
        town.forget()
        await town.generation_2(ports, NAMES)
        await asyncio.sleep(2.0)
        dispatched = {(who, verb, pod) for who, verb, pod, token in town.calls if token == town.token}
        assert dispatched == {("shard-0", "dispatch", pod) for pod in LOW} | {
            ("shard-1", "dispatch", pod) for pod in HIGH
        }
        town.forget()
        place.retired = True
        town.world.kill(place)
        await asyncio.sleep(limits().lease_ttl_s + limits().seat_grace_s - 2.0)
        assert town.calls == []
        await town.owns(s0=(0, SLOTS))
        assert set(town.hellos("shard-0")) == HIGH
        assert town.scans == [ports.keys.slots(HALF, SLOTS)]
        assert {token for *_, token in town.calls} == {town.token}
        await asyncio.sleep(30.0)
        assert {verb for _, verb, _, _ in town.calls} == {"hello"}

    town.run(story)
    assert LOW
    assert HIGH


def test_a_restart_within_the_grace_leaves_the_others_alone() -> None:
    town = Town()

    async def story(ports: Ports) -> None:
        town.world.faults.restart_s = 8.0
        place = town.world.place("shard-1", "shard", shard("1"))
        await town.owns(s0=(0, HALF), s1=(HALF, SLOTS))
        town.forget()
        first = place.current
        town.world.kill(place)
        while town.hellos("shard-1").keys() != HIGH:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        assert place.current is not first
        await town.owns(s0=(0, HALF), s1=(HALF, SLOTS))
        assert town.hellos("shard-0") == {}
        assert town.scans == []

    town.run(story)


def test_what_is_under_way_for_slots_that_left_is_given_up() -> None:
    """The new token is the shard's own, too: only by not calling does it leave the new owner alone."""
    town = Town()

    async def story(ports: Ports) -> None:
        town.world.faults.network.latency_s = 2.0  # calls are on their way when the map changes
        await town.generation_2(ports, NAMES)
        await asyncio.sleep(0.5)
        town.world.place("shard-1", "shard", shard("1"))
        await town.owns(s0=(0, HALF), s1=(HALF, SLOTS))
        await asyncio.sleep(30.0)
        new = town.world.server.entries[town.world.keys.map].mod_revision
        assert not [call for call in town.calls if call[0] == "shard-0" and call[2] in HIGH and call[3].revision == new]
        for machine in town.world.machines.values():
            assert machine.pod is not None
            assert machine.pod.metadata.generation == 2

    town.run(story)


def test_a_map_that_was_missed_begins_the_range_anew() -> None:
    """Somebody else may have served the slots meanwhile."""
    town = Town()

    async def story(ports: Ports) -> None:
        await town.owns(s0=(0, SLOTS))
        town.world.places["coordinator-0"].retired = True
        town.world.kill(town.world.places["coordinator-0"])
        for more, anew in ((1, False), (2, True)):
            town.forget()
            stored = town.world.server.entries[ports.keys.map]
            old = ShardMap.from_json(stored.value)
            new = ShardMap(old.term, old.coordinator, old.shards, old.version + more)
            await ports.store.commit(Txn((), (Put(ports.keys.map, new.to_json()),)))
            await asyncio.sleep(3.0)
            assert set(town.hellos("shard-0")) == (set(NAMES) if anew else set())
            assert town.scans == ([ports.keys.slots(0, SLOTS)] if anew else [])

    town.run(story)


def meeting_a_newer_owner(map_late_s: float) -> tuple[str, str]:
    """Shard 0 hears of a new map so late that the new owner speaks to its agents first; its incarnations before and
    after."""
    town = Town()
    lived: list[str] = []
    watch = SimStore.watch

    async def late(store: SimStore, start: str, end: str, revision: int) -> AsyncIterator[WatchBatch]:
        async for batch in watch(store, start, end, revision):
            if store._process.name == "shard-0" and start == town.world.keys.map:
                await asyncio.sleep(map_late_s)
            yield batch

    async def story(ports: Ports) -> None:
        await asyncio.sleep(map_late_s)
        town.world.place("shard-1", "shard", shard("1"))
        lived.append(town.incarnation("0"))
        await town.owns(s0=(0, HALF), s1=(HALF, SLOTS))
        await town.generation_2(ports, HIGH)
        await asyncio.sleep(map_late_s + 15.0)
        assert refused
        lived.append(town.incarnation("0"))
        held = [machine.pod for machine in town.world.machines.values() if machine.pod is not None]
        assert {pod.metadata.generation for pod in held if pod.name in HIGH} == {2}

    def fence(machine: Machine, token: Token) -> None:
        try:
            check(machine, token)
        except StaleToken:
            refused.append(token)
            raise

    refused: list[Token] = []
    check = Machine._fence
    with mock.patch.object(SimStore, "watch", late), mock.patch.object(Machine, "_fence", fence):
        town.run(story)
    assert len(refused) < 100
    return lived[0], lived[1]


def test_a_newer_owner_seen_before_its_map_deposes_nobody() -> None:
    before, after = meeting_a_newer_owner(2.0)
    assert before == after


def test_who_does_not_hear_of_the_map_in_time_is_deposed() -> None:
    before, after = meeting_a_newer_owner(8.0)
    assert before != after
