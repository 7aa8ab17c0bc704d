"""A server and, for what needs pods to get on, somebody who plays the controllers."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from milpa_ray.api import Node, NodePhase, Pod, PodPhase
from milpa_ray.api.meta import ObjectMeta
from milpa_ray.api.node import NodeStatus
from milpa_ray.api.pod import NetworkAddress, PodStatus
from milpa_ray.keys import prefix_end
from milpa_ray.ports import node_identity
from milpa_ray.store.memory import MemoryStore
from milpa_ray.store.port import Compare, Delete, Put, Store, Txn
from tests.server.serving import Served, serving


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
async def served(store: MemoryStore, tmp_path: Path) -> AsyncIterator[Served]:
    async with serving(store, tmp_path / "certs") as found:
        yield found


@pytest.fixture
async def controlled(served: Served) -> AsyncIterator[Served]:
    """Pods get Running at once, those with the image ``fails`` end Failed and those with ``works`` Succeeded; deleted
    ones go."""
    status = NodeStatus(phase=NodePhase.CLAIMED, addresses=(NetworkAddress(type="PrivateIP", address="10.0.0.1"),))
    node = Node(metadata=ObjectMeta(name="n1"), status=status)
    await served.store.commit(Txn(ops=(Put(served.keys.node(0, "n1"), node.to_json()),)))
    served.dialer.add(node_identity("n1"), "10.0.0.1", main=[b"hello\n", b"world\n"])
    task = asyncio.create_task(_control(served.store, served.keys.objects))
    yield served
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def _control(store: Store, prefix: str) -> None:
    phases = {"fails": PodPhase.FAILED, "works": PodPhase.SUCCEEDED}
    async for batch in store.watch(prefix, prefix_end(prefix), 1):
        for change in batch.changes:
            if change.deleted or "/pod/" not in change.entry.key:
                continue
            entry, pod = change.entry, Pod.from_json(change.entry.value)
            compare = Compare(entry.key, entry.mod_revision)
            if pod.metadata.deletion_timestamp:
                await store.commit(Txn((compare,), (Delete(entry.key),)))
            elif pod.status.phase is PodPhase.WAITING:
                phase = phases.get(pod.spec.units[0].image, PodPhase.RUNNING)
                status = PodStatus(phase=phase, bound_node_name="n1", message="as its image says")
                put = Put(entry.key, pod.model_copy(update={"status": status}).to_json())
                await store.commit(Txn((compare,), (put,)))
