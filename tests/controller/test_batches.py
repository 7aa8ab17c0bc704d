"""A node is launched by one batch only, whatever becomes of the commit that records it."""

import asyncio
import random

import pytest

from milpa_ray.api.node import NodePhase
from milpa_ray.clock import SystemClock
from milpa_ray.controller.batches import Batches
from milpa_ray.controller.deps import CoordinatorDeps
from milpa_ray.controller.leadership import Leadership
from milpa_ray.errors import StoreUnavailable
from milpa_ray.keys import Keys, prefix_end, slot_of
from milpa_ray.limits import Limits
from milpa_ray.planner.launches import Batch
from milpa_ray.planner.membership import ShardMap
from milpa_ray.planner.snapshot import Versioned
from milpa_ray.store.group import GroupOutcome, Verdict, WriteGroup, group_commit
from milpa_ray.store.memory import MemoryStore
from milpa_ray.store.port import Put, Txn
from tests.simulation.toys import a_node


class Cloud:
    """Takes every launch and never answers."""

    async def launch(self, _call: object) -> None:
        await asyncio.Event().wait()


class Rig:
    """Batches over a store whose commits can stay without an answer; those are in ``lost``."""

    def __init__(self) -> None:
        self.store, self.keys = MemoryStore(), Keys("c")
        self.changed = asyncio.Event()
        self.losing = False
        self.lost: list[list[WriteGroup]] = []
        self.creating: list[Versioned] = []
        deps = CoordinatorDeps(
            self.store,
            self.keys,
            SystemClock(),
            random.Random(1),
            Limits(retry_first_s=0.01),
            lease=None,  # type: ignore[arg-type]
            compute=Cloud(),  # type: ignore[arg-type]
            recorder=None,  # type: ignore[arg-type]
        )
        self.batches = Batches(deps, Leadership(self.store, self.keys, "me"), "uuid", self.commit, self.changed)

    async def commit(self, groups: list[WriteGroup], _nodes: object) -> list[GroupOutcome]:
        if self.losing:
            self.lost.append(groups)
            return [GroupOutcome(Verdict.UNKNOWN, error=StoreUnavailable("no answer")) for _ in groups]
        return await group_commit(self.store, groups, None)

    async def arrive_late(self) -> None:
        for groups in self.lost:
            await group_commit(self.store, groups, None)
        self.lost.clear()

    async def create(self, name: str) -> None:
        node, key = a_node(name, NodePhase.CREATING), self.keys.node(slot_of("web"), name)
        result = await self.store.commit(Txn(ops=(Put(key, node.to_json()),)))
        self.creating.append(Versioned(key, node, result.revision))

    async def step(self) -> None:
        await self.batches.step(self.creating, {item.obj.name: item for item in self.creating})

    async def recorded(self) -> list[tuple[str, ...]]:
        prefix = self.keys.prefix("batch")
        page = await self.store.scan(prefix, prefix_end(prefix))
        return sorted(Batch.from_json(entry.value).nodes for entry in page.entries)


@pytest.fixture
async def rig() -> Rig:
    rig = Rig()
    shard_map = ShardMap(coordinator="me")
    await rig.store.commit(Txn(ops=(Put(rig.keys.map, shard_map.to_json()),)))
    return rig


@pytest.mark.parametrize("arrives", ["at once", "after another try", "when all is done"])
async def test_a_node_of_a_batch_whose_fate_is_unknown_goes_into_no_other(rig: Rig, arrives: str) -> None:
    # The watch is not run: it may tell of a batch long after its commit.
    await rig.create("a")
    rig.losing = True
    await rig.step()
    if arrives == "at once":
        await rig.arrive_late()
    assert rig.batches.holds("a")
    await rig.create("b")
    await rig.step()
    rig.losing = False
    if arrives == "after another try":
        await rig.arrive_late()
    for _ in range(3):
        await rig.step()
    if arrives == "when all is done":
        await rig.arrive_late()
    assert await rig.recorded() == [("a",), ("b",)]


async def test_a_batch_that_can_not_be_any_more_lets_its_nodes_go(rig: Rig) -> None:
    await rig.create("a")
    rig.losing = True
    await rig.step()
    rig.losing = False
    (old,) = rig.creating
    rig.creating.clear()
    await rig.create("a")  # it is written again, so what was lost cannot hold any more
    assert rig.creating[0].revision > old.revision
    for _ in range(3):
        await rig.step()
    await rig.arrive_late()
    assert await rig.recorded() == [("a",)]
    assert [item.obj.nodes for item in rig.batches._view.items.values()] == [("a",)]


async def test_the_nodes_of_a_recorded_batch_are_in_no_other(rig: Rig) -> None:
    await rig.create("a")
    await rig.step()
    await rig.create("b")
    for _ in range(3):
        await rig.step()
    assert await rig.recorded() == [("a",), ("b",)]
