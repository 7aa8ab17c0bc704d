"""A node is launched by one batch only, whatever becomes of the commit that records it."""

import asyncio
import random
from dataclasses import replace

import pytest

from milpa_ray.api.meta import ObjectReference
from milpa_ray.api.node import Node, NodePhase
from milpa_ray.clock import SystemClock
from milpa_ray.controller.batches import Batches
from milpa_ray.controller.deps import CoordinatorDeps
from milpa_ray.controller.leadership import Leadership
from milpa_ray.errors import (
    CapacityScope,
    CloudNotReady,
    CloudThrottled,
    LaunchOutdated,
    LaunchRejected,
    MilpaError,
    NoCapacity,
    StoreUnavailable,
)
from milpa_ray.keys import Keys, prefix_end, slot_of
from milpa_ray.limits import Limits
from milpa_ray.planner.launches import Batch
from milpa_ray.planner.membership import ShardMap
from milpa_ray.planner.snapshot import Versioned
from milpa_ray.ports import LaunchCall
from milpa_ray.store.group import GroupOutcome, Verdict, WriteGroup, group_commit
from milpa_ray.store.memory import MemoryStore
from milpa_ray.store.port import Put, Txn
from tests.simulation.toys import a_node
from tests.waiting import eventually


class Cloud:
    """Prepares every launch, takes it and never answers; unless there is an ``error`` to answer with."""

    def __init__(self) -> None:
        self.prepare_error: MilpaError | None = None
        self.launch_error: MilpaError | None = None
        self.launched: list[LaunchCall] = []
        self.prepared = 0

    async def prepare(self, call: LaunchCall) -> LaunchCall:
        self.prepared += 1
        if self.prepare_error is not None:
            raise self.prepare_error
        return replace(call, image="image-1")

    async def launch(self, call: LaunchCall) -> None:
        self.launched.append(call)
        if self.launch_error is not None:
            raise self.launch_error
        await asyncio.Event().wait()


class Recorder:
    def __init__(self) -> None:
        self.told: list[tuple[str, str, str]] = []

    def record(self, involved: ObjectReference, status: str, message: str = "") -> None:
        self.told.append((involved.name, status, message))


class Rig:
    """Batches over a store whose commits can stay without an answer; those are in ``lost``."""

    def __init__(self) -> None:
        self.store, self.keys = MemoryStore(), Keys("c")
        self.changed = asyncio.Event()
        self.losing = False
        self.lost: list[list[WriteGroup]] = []
        self.creating: list[Versioned] = []
        self.nodes: dict[str, Versioned] = {}
        self.cloud, self.recorder = Cloud(), Recorder()
        deps = CoordinatorDeps(
            self.store,
            self.keys,
            SystemClock(),
            random.Random(1),
            Limits(retry_first_s=0.01),
            lease=None,  # type: ignore[arg-type]
            compute=self.cloud,  # type: ignore[arg-type]
            recorder=self.recorder,
        )
        self.batches = Batches(deps, Leadership(self.store, self.keys, "me"), "uuid", self.commit, self.changed)

    async def commit(self, groups: list[WriteGroup], nodes: list[list[tuple[str, Node]]]) -> list[GroupOutcome]:
        if self.losing:
            self.lost.append(groups)
            return [GroupOutcome(Verdict.UNKNOWN, error=StoreUnavailable("no answer")) for _ in groups]
        outcomes = await group_commit(self.store, groups, None)
        written = {
            key: Versioned(key, node, outcome.revision)
            for group, outcome in zip(nodes, outcomes, strict=True)
            if outcome.verdict == Verdict.COMMITTED
            for key, node in group
        }
        self.creating = [written.get(item.key, item) for item in self.creating]
        self.nodes.update((item.obj.name, item) for item in written.values())
        return outcomes

    async def arrive_late(self) -> None:
        for groups in self.lost:
            await group_commit(self.store, groups, None)
        self.lost.clear()

    async def create(self, name: str) -> None:
        node, key = a_node(name, NodePhase.CREATING), self.keys.node(slot_of("web"), name)
        result = await self.store.commit(Txn(ops=(Put(key, node.to_json()),)))
        self.creating.append(Versioned(key, node, result.revision))

    async def step(self) -> None:
        """One step, what it has to prepare, and one more for what is prepared."""
        await self._step()
        await asyncio.gather(*self.batches._preparations._tasks.values())
        await self._step()

    async def _step(self) -> None:
        creating = [item for item in self.creating if item.obj.status.phase == NodePhase.CREATING]
        self.nodes = {item.obj.name: item for item in self.creating}
        await self.batches.step(creating, self.nodes)

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


async def test_what_is_called_is_what_was_prepared_and_recorded(rig: Rig) -> None:
    await rig.create("a")
    await rig.step()
    await eventually(lambda: bool(rig.cloud.launched))
    (call,) = rig.cloud.launched
    (item,) = rig.batches._view.items.values()
    assert (call.image, call) == ("image-1", item.obj.call)


async def test_nodes_that_come_while_a_call_is_prepared_join_it(rig: Rig) -> None:
    for name in "abc":
        await rig.create(name)
        await rig._step()  # begins to prepare, and does not wait for it
    await rig.step()
    assert await rig.recorded() == [("a", "b", "c")]
    await eventually(lambda: bool(rig.cloud.launched))
    assert [call.count for call in rig.cloud.launched] == [3]


async def test_nodes_whose_call_cannot_be_prepared_wait_and_say_why_once(rig: Rig) -> None:
    rig.cloud.prepare_error = CloudNotReady("no image is tagged company=acme")
    await rig.create("a")

    async def tried_again() -> bool:
        await rig.step()
        return rig.cloud.prepared >= 3

    await eventually(tried_again)
    assert rig.recorder.told == [("web", "launch-delayed", "no image is tagged company=acme; trying again")]
    assert [item.obj.status.phase for item in rig.creating] == [NodePhase.CREATING]
    rig.cloud.prepare_error = None
    await eventually(lambda: _launched(rig))


async def test_the_clouds_pace_is_no_event(rig: Rig) -> None:
    rig.cloud.prepare_error = CloudThrottled("RequestLimitExceeded")
    await rig.create("a")
    await rig.step()
    assert rig.recorder.told == []


@pytest.mark.parametrize(
    ("error", "reason", "remembered"),
    [
        (NoCapacity("NoSubnet", "none in zone-a", CapacityScope.SUBNET), "NoSubnet", 1),
        (LaunchRejected("Unsupported", "not this type"), "LaunchRejected", 0),
    ],
)
@pytest.mark.parametrize("when", ["prepare_error", "launch_error"])
async def test_a_refusal_ends_the_nodes(rig: Rig, error: MilpaError, reason: str, remembered: int, when: str) -> None:
    setattr(rig.cloud, when, error)
    await rig.create("a")

    async def ended() -> bool:
        await rig.step()
        return rig.creating[0].obj.status.phase == NodePhase.TERMINATED

    await eventually(ended)
    assert (rig.creating[0].obj.status.reason, await rig.recorded()) == (reason, [])
    prefix = rig.keys.prefix("capacity")
    assert len((await rig.store.scan(prefix, prefix_end(prefix))).entries) == remembered
    assert not rig.batches.holds("a")


async def test_an_outdated_launch_is_prepared_anew_with_another_token(rig: Rig) -> None:
    rig.cloud.launch_error = LaunchOutdated("InvalidAMIID.NotFound", "image-1 is gone")
    await rig.create("a")

    async def called_twice() -> bool:
        await rig.step()
        return len(rig.cloud.launched) >= 2

    await eventually(called_twice)
    first, second = rig.cloud.launched[:2]
    assert first.token != second.token
    assert rig.creating[0].obj.status.phase == NodePhase.CREATING
    assert len(await rig.recorded()) <= 1


async def _launched(rig: Rig) -> bool:
    await rig.step()
    return bool(rig.cloud.launched)


async def test_a_node_that_is_wished_away_while_its_call_is_prepared_is_looked_at_again(rig: Rig) -> None:
    await rig.create("a")
    await rig._step()  # begins to prepare
    await asyncio.gather(*rig.batches._preparations._tasks.values())
    (item,) = rig.creating
    away = item.obj.model_copy(update={"spec": item.obj.spec.model_copy(update={"terminate": True})})
    rig.creating = [Versioned(item.key, away, item.revision)]
    rig.changed.clear()
    await rig._step()
    assert not rig.batches.holds("a")
    assert rig.changed.is_set(), "nobody would end it"
