"""The memory of what is full: what each record says; and, in the simulated world with the real controllers, that
capacity which has come back is noticed soon."""

import asyncio
from collections.abc import Callable
from unittest import mock

import pytest

from milpa_ray.api.node import Node, NodeSpec
from milpa_ray.api.pod import PlacementSpec, Pod, PodPhase, ResourceSpec
from milpa_ray.controller.capacity import capacity_key, capacity_put, decode_capacity, given_back
from milpa_ray.errors import CapacityScope
from milpa_ray.keys import Keys
from milpa_ray.planner.fullness import Full as Fullness
from milpa_ray.planner.refusal import NO_CAPACITY
from milpa_ray.ports import LaunchCall
from milpa_ray.store.port import Compare, Put, Txn
from tests.simulation import cluster
from tests.simulation.toys import a_pod
from tests.simulation.world import EPOCH, Faults, Ports, World

KEYS = Keys("t")
MEMORY_S = 3600
"""So long that only an instance's end can bring the capacity back."""


class Full:
    """A world in which one pod runs and ``names`` were refused, as the cloud had no room for them."""

    def __init__(self, seed: int, waiting: int) -> None:
        self.faults = Faults()
        self.faults.heal()
        self.world = World(seed, self.faults)
        self.names = [f"late-{number}" for number in range(waiting)]
        self.launched = 0
        """Instances asked for, also in vain."""
        check = self.world.cloud.on_launch

        def count(call: LaunchCall, before: LaunchCall | None) -> None:
            self.launched += call.count
            check(call, before)

        self.world.cloud.on_launch = count

    def pod(self, ports: Ports, name: str) -> Pod | None:
        """As the store has it at this moment."""
        entry = self.world.server.entries.get(ports.keys.pod(name))
        return Pod.from_json(entry.value) if entry is not None else None

    def all_late(self, ports: Ports, what: Callable[[Pod], bool]) -> bool:
        return all((pod := self.pod(ports, name)) is not None and what(pod) for name in self.names)

    @property
    def empty(self) -> bool:
        return not any(instance.live for instance in self.world.cloud.instances.values())

    async def until(self, done: Callable[[], bool]) -> float:
        """Seconds until it is so. The world's end of patience ends a wait in vain."""
        began = self.world.loop.time()
        while not done():  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        return self.world.loop.time() - began

    async def fill(self, ports: Ports) -> None:
        for name in ("first", *self.names):
            if name != "first":
                self.faults.cloud.no_capacity = 1.0
            await ports.store.commit(Txn(ops=(Put(ports.keys.pod(name), a_pod(name).to_json()),)))
            await asyncio.sleep(0.1)
            if name == "first":
                await self.until(lambda: (pod := self.pod(ports, "first")) is not None and _runs(pod))
        await self.until(lambda: self.all_late(ports, lambda pod: pod.status.reason == NO_CAPACITY))

    async def end_first(self, ports: Ports) -> None:
        """Deletes the pod that runs, and waits until its instance has ended."""
        key = ports.keys.pod("first")
        entry, pod = await ports.store.get(key), self.pod(ports, "first")
        assert entry is not None
        assert pod is not None
        marked = pod.model_copy(update={"metadata": pod.metadata.model_copy(update={"deletion_timestamp": EPOCH})})
        result = await ports.store.commit(Txn((Compare(key, entry.mod_revision),), (Put(key, marked.to_json()),)))
        assert result.ok
        await self.until(lambda: self.empty)

    def run(self, told: "Callable[[Ports], object]") -> None:
        """Runs the user ``told`` until it has ended."""
        done: list[bool] = []

        async def user(ports: Ports) -> None:
            await told(ports)  # type: ignore[misc]
            done.append(True)
            await asyncio.Event().wait()

        async def drive() -> None:
            self.world.place("shard-0", "shard", cluster.shard("0"))
            self.world.place("coordinator-0", "coordinator", cluster.coordinator)
            self.world.place("user", "toy", user)
            while not done:  # noqa: ASYNC110
                await asyncio.sleep(0.1)

        limits = cluster.limits().model_copy(update={"capacity_memory_s": MEMORY_S})
        with mock.patch.object(cluster, "limits", return_value=limits):
            self.world.run(drive())


def _runs(pod: Pod) -> bool:
    return pod.status.phase == PodPhase.RUNNING


@pytest.mark.parametrize("seed", range(3))
def test_the_end_of_an_instance_lets_the_pods_that_wait_for_its_kind_try_again_soon(seed: int) -> None:
    full, took = Full(seed, 30), {}

    async def user(ports: Ports) -> None:
        await full.fill(ports)
        full.faults.cloud.no_capacity = 0.0
        await full.end_first(ports)
        took["first"] = await full.until(lambda: not full.empty)
        took["all"] = await full.until(lambda: full.all_late(ports, _runs))

    full.run(user)
    # The poll that notices the end takes a second; the pods try one after the other, and boot for some seconds.
    assert took["first"] < 3.0
    assert took["all"] < 20.0


@pytest.mark.parametrize("seed", range(3))
def test_only_a_few_try_when_there_is_no_room_after_all(seed: int) -> None:
    full, tried = Full(seed, 100), []

    async def user(ports: Ports) -> None:
        await full.fill(ports)
        before = full.launched
        await full.end_first(ports)
        await full.until(lambda: full.launched > before)
        await asyncio.sleep(10)
        tried.append(full.launched - before)
        assert full.all_late(ports, lambda pod: pod.status.phase == PodPhase.WAITING)

    full.run(user)
    assert 1 <= tried[0] <= 30


FULL = {
    CapacityScope.TYPE: Fullness(types=frozenset({(True, "c5.large", "z1")})),
    CapacityScope.FAMILY: Fullness(families=frozenset({(True, "c5")})),
    CapacityScope.SPOT: Fullness(spot=True),
    CapacityScope.SUBNET: Fullness(zones=frozenset({(True, "z1")})),
}


@pytest.mark.parametrize("scope", CapacityScope)
def test_a_failed_launch_is_remembered_as_far_as_it_reaches(scope: CapacityScope) -> None:
    call = LaunchCall("token", 3, "c5.large", "z1", spot=True, private_ip_only=True)
    put = capacity_put(KEYS, call, scope, 7)
    assert put.lease == 7
    assert put.key.startswith(KEYS.prefix("capacity"))
    assert Fullness.of([decode_capacity(put.key, put.value)]) == FULL[scope]


@pytest.mark.parametrize("scope", CapacityScope)
@pytest.mark.parametrize("spot", [True, False])
def test_the_end_of_an_instance_gives_back_what_its_launch_would_have_lacked(scope: CapacityScope, spot: bool) -> None:
    spec = NodeSpec(
        instance_type="c5.large",
        spot=spot,
        placement=PlacementSpec(availability_zone="z1"),
        resources=ResourceSpec(private_ip_only=True),
    )
    back = {capacity_key(KEYS, record) for record in given_back(Node(spec=spec))}
    call = LaunchCall("token", 1, "c5.large", "z1", spot=spot, private_ip_only=True)
    other = LaunchCall("token", 1, "m5.large", "z2", spot=not spot)
    assert (capacity_put(KEYS, call, scope, 1).key in back) == (spot or scope != CapacityScope.SPOT)
    if scope != CapacityScope.SPOT:
        assert capacity_put(KEYS, other, scope, 1).key not in back


@pytest.mark.parametrize("value", [b'[true, "c5.large", "z1"]', b"{}", b"x", b'{"scope": "type"}'])
def test_a_record_that_is_not_ours_is_refused(value: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode_capacity("key", value)
