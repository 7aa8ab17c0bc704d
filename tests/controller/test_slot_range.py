"""Real controllers in the simulated world: what they parse, and what they need not."""

import asyncio
from collections import Counter
from typing import Any
from unittest import mock

import pytest

from milpa_ray.api.pod import Pod, PodPhase
from milpa_ray.controller import cloud_duties, slot_range
from milpa_ray.controller.cloud_duties import CloudDuties
from milpa_ray.controller.slot_range import SlotRange
from milpa_ray.planner.launches import Batch
from milpa_ray.store.port import Put, Txn
from tests.simulation.cluster import coordinator, shard
from tests.simulation.toys import a_pod
from tests.simulation.world import Faults, Ports, World

PODS = 12


class Ledger:
    """What one controller wrote, and what it parsed."""

    def __init__(self, commits: Any) -> None:
        self.wrote: set[bytes] = set()
        self.parsed: Counter[bytes] = Counter()
        self._commits = commits

    async def commit(self, store: Any, map_key: str, token: Any, groups: Any) -> Any:
        self.wrote |= {op.value for group in groups for op in group.ops if isinstance(op, Put)}
        return await self._commits(store, map_key, token, groups)

    def counting(self, decode: Any) -> Any:
        def counted(owner: Any, key: str, value: bytes) -> Any:
            obj = decode(owner, key, value)
            if obj is not None:
                self.parsed[value] += 1
            return obj

        return counted


async def running(ports: Ports, name: str) -> bool:
    entry = await ports.store.get(ports.keys.pod(name))
    return entry is not None and Pod.from_json(entry.value).status.phase == PodPhase.RUNNING


def run_pods(seed: int) -> None:
    """A shard and a coordinator bring ``PODS`` pods to Running, without faults."""
    faults = Faults()
    faults.heal()
    world = World(seed, faults)

    async def user(ports: Ports) -> None:
        names = [f"pod-{number}" for number in range(PODS)]
        for name in names:
            await ports.store.commit(Txn(ops=(Put(ports.keys.pod(name), a_pod(name).to_json()),)))
        for name in names:
            while not await running(ports, name):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        done.append(True)
        await asyncio.Event().wait()

    async def drive() -> None:
        world.place("shard-0", "shard", shard("0"))
        world.place("coordinator-0", "coordinator", coordinator)
        world.place("user", "toy", user)
        while not done:  # noqa: ASYNC110
            await asyncio.sleep(0.1)

    done: list[bool] = []
    world.run(drive())


@pytest.mark.parametrize("seed", range(3))
def test_a_shard_parses_what_others_wrote_once_and_its_own_commits_never(seed: int) -> None:
    ledger = Ledger(slot_range.commit_fenced)
    with (
        mock.patch.object(slot_range, "commit_fenced", ledger.commit),
        mock.patch.object(SlotRange, "_decode", ledger.counting(SlotRange._decode)),
    ):
        run_pods(seed)
    assert len(ledger.wrote) >= PODS * 6  # node Creating, pod Launching, node Available, both when bound, pod Running
    assert len(ledger.parsed) == PODS * 2  # the pod as its user made it, the node as the coordinator launched it
    assert set(ledger.parsed.values()) == {1}
    assert not ledger.wrote & ledger.parsed.keys()


@pytest.mark.parametrize("seed", range(3))
def test_a_coordinator_parses_none_of_its_own_commits(seed: int) -> None:
    ledger = Ledger(cloud_duties.commit_fenced)
    with (
        mock.patch.object(cloud_duties, "commit_fenced", ledger.commit),
        mock.patch.object(CloudDuties, "_decode", ledger.counting(CloudDuties._decode)),
        mock.patch.object(Batch, "from_json", wraps=Batch.from_json) as batches_parsed,
    ):
        run_pods(seed)
    assert len(ledger.wrote) > PODS  # the nodes as launched, and their batches
    assert len(ledger.parsed) == PODS * 3  # the nodes Creating, Available and Claimed, which the shard wrote
    assert not ledger.wrote & ledger.parsed.keys()
    assert not batches_parsed.called
