"""A root volume that is too small for its pod is grown before the dispatch, in the simulated world."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from unittest import mock

import pytest

from milpa_ray.api.node import Node
from milpa_ray.api.pod import Pod, PodPhase, ResourceSpec
from milpa_ray.controller import batches
from milpa_ray.errors import CloudRefused, CloudUnavailable
from milpa_ray.planner.launches import launched
from milpa_ray.ports import Instance, LaunchCall
from milpa_ray.store.port import Put, Txn
from tests.simulation import cluster
from tests.simulation.toys import a_pod
from tests.simulation.world import Faults, Ports, World


def too_small(node: Node, instance: Instance, call: LaunchCall, now: object) -> Node:
    """Every node comes with 5 GiB, as one would that was made before its pod."""
    return launched(node, instance, replace(call, volume_gib=5), now)  # type: ignore[arg-type]


def run(errors: Sequence[Exception]) -> tuple[Pod, list[Node], list[tuple[str, int, bool]]]:
    """Runs one pod of 60 GiB; the cloud answers its first calls with ``errors``. The pod and nodes in the end, and the
    calls: instance, size, and whether the pod was on the instance already."""
    faults = Faults()
    faults.heal()
    world = World(1, faults)
    calls: list[tuple[str, int, bool]] = []
    left = list(errors)

    async def grow(instance_id: str, gib: int) -> None:
        calls.append((instance_id, gib, world.machines[instance_id].pod is not None))
        if left:
            raise left.pop(0)

    def stored() -> Pod:
        return Pod.from_json(world.server.entries[world.keys.pod("web")].value)

    async def user(ports: Ports) -> None:
        pod = a_pod()
        spec = pod.spec.model_copy(update={"resources": ResourceSpec(volume_size="60Gi")})
        put = Put(ports.keys.pod("web"), pod.model_copy(update={"spec": spec}).to_json())
        await ports.store.commit(Txn(ops=(put,)))
        await asyncio.Event().wait()

    async def drive() -> None:
        world.place("shard-0", "shard", cluster.shard("0"))
        world.place("coordinator-0", "coordinator", cluster.coordinator)
        world.place("user", "toy", user)
        async with asyncio.timeout(300):
            while not calls or stored().status.phase not in (PodPhase.RUNNING, PodPhase.FAILED):  # noqa: ASYNC110
                await asyncio.sleep(0.1)

    with mock.patch.object(batches, "launched", too_small), mock.patch.object(world.cloud, "grow_volume", grow):
        world.run(drive())
    return stored(), list(world.invariants.nodes.values()), calls


def test_the_cloud_grows_it_before_the_pod_is_dispatched() -> None:
    pod, (node,), calls = run([])
    assert pod.status.phase == PodPhase.RUNNING
    assert calls == [(node.status.instance_id, 60, False)]
    assert node.status.volume_gib == 60


@pytest.mark.parametrize("failures", [1, 3])
def test_an_error_of_the_cloud_is_waited_out(failures: int) -> None:
    pod, (node,), calls = run([CloudUnavailable("simulated")] * failures)
    assert pod.status.phase == PodPhase.RUNNING
    assert len(calls) == failures + 1
    assert node.status.volume_gib == 60


def test_a_refusal_is_a_failed_start_on_that_node() -> None:
    pod, nodes, calls = run([CloudRefused("VolumeModificationRateExceeded", "too soon")])
    assert pod.status.phase == PodPhase.RUNNING
    assert len({instance for instance, _, _ in calls}) == 2
    assert pod.status.bound_instance_id == calls[-1][0]
    left = next(node for node in nodes if node.status.instance_id == calls[0][0])
    assert "too soon" in left.status.message
