"""A spot interruption from notice to new node, with the real controllers in a simulated world without other faults."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from milpa_ray.api.pod import Pod, PodPhase, PodSpot, RestartPolicy, SpotPolicy
from milpa_ray.store.port import Put, Txn
from tests.simulation import cluster
from tests.simulation.cloud import SimInstance
from tests.simulation.toys import a_pod
from tests.simulation.world import Faults, Ports, World

NOTICE_S = 60.0


class Spot:
    """A world with one spot pod, named web."""

    def __init__(self, seed: int, policy: RestartPolicy = RestartPolicy.ALWAYS) -> None:
        self.faults = Faults()
        self.faults.heal()
        self.world = World(seed, self.faults)
        self.policy = policy

    def pod(self, name: str = "web") -> Pod:
        """As the store has it at this moment."""
        return Pod.from_json(self.world.server.entries[self.world.keys.pod(name)].value)

    async def create(self, ports: Ports, name: str) -> None:
        pod = a_pod(name)
        changes = {"spot": PodSpot(policy=SpotPolicy.ALWAYS), "restart_policy": self.policy}
        pod = pod.model_copy(update={"spec": pod.spec.model_copy(update=changes)})
        await ports.store.commit(Txn(ops=(Put(ports.keys.pod(name), pod.to_json()),)))
        await self.until(lambda: self.runs(name))

    def runs(self, name: str = "web") -> bool:
        """Running by its record and in truth."""
        pod = self.pod(name)
        machine = self.world.machines.get(pod.status.bound_instance_id)
        return pod.status.phase == PodPhase.RUNNING and machine is not None and machine.running

    def instance(self, name: str = "web") -> SimInstance:
        return self.world.cloud.instances[self.pod(name).status.bound_instance_id]

    async def until(self, done: Callable[[], bool]) -> float:
        """Seconds until it is so. The world's end of patience ends a wait in vain."""
        began = self.world.loop.time()
        while not done():  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        return self.world.loop.time() - began

    def run(self, story: Callable[[Ports], Awaitable[None]]) -> None:
        done: list[bool] = []

        async def user(ports: Ports) -> None:
            await story(ports)
            done.append(True)
            await asyncio.Event().wait()

        async def drive() -> None:
            self.world.place("shard-0", "shard", cluster.shard("0"))
            self.world.place("coordinator-0", "coordinator", cluster.coordinator)
            self.world.place("user", "toy", user)
            while not done:  # noqa: ASYNC110
                await asyncio.sleep(0.1)

        self.world.run(drive())
        assert done


@pytest.mark.parametrize("seed", range(5))
def test_the_next_node_boots_while_the_pod_still_runs_and_the_pod_is_away_for_a_moment_only(seed: int) -> None:
    spot = Spot(seed)

    async def story(ports: Ports) -> None:
        await spot.create(ports, "web")
        first, began = spot.instance(), spot.world.loop.time()
        spot.world.cloud.take_back(first, NOTICE_S)
        launched = await spot.until(lambda: len(spot.world.cloud.instances) == 2)
        assert spot.runs()
        gone = await spot.until(lambda: not spot.runs()) + launched
        away = await spot.until(spot.runs)
        second = spot.instance()
        assert second is not first
        assert (second.call.spot, second.call.zone != first.call.zone) == (True, True)
        # The stop was asked for and confirmed in time, and the old instance is ended by us.
        assert launched < 2.0
        assert gone + away < NOTICE_S - 5
        assert away < 8.0
        assert "uid-web" in spot.world.machines[first.id].stop_asked
        await spot.until(lambda: not first.live)
        assert spot.world.loop.time() < began + NOTICE_S

    spot.run(story)


@pytest.mark.parametrize("seed", range(3))
def test_what_is_taken_back_is_avoided_for_a_while_even_when_the_instance_has_ended(seed: int) -> None:
    spot = Spot(seed)

    async def story(ports: Ports) -> None:
        await spot.create(ports, "web")
        first = spot.instance()
        spot.world.cloud.take_back(first, NOTICE_S)
        await spot.until(lambda: not first.live)
        (memory,) = [key for key in spot.world.server.entries if key.startswith(ports.keys.prefix("capacity"))]
        assert memory.endswith(f"spot/t3.nano/{first.call.zone}")
        await spot.create(ports, "later")
        assert spot.instance("later").call.zone != first.call.zone

    limits = cluster.limits().model_copy(update={"capacity_memory_s": 3600})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cluster, "limits", lambda: limits)
        spot.run(story)


def test_a_pod_that_is_never_restarted_runs_on_until_its_grace_is_needed_and_fails() -> None:
    spot = Spot(1, RestartPolicy.NEVER)

    async def story(ports: Ports) -> None:
        await spot.create(ports, "web")
        spot.world.cloud.take_back(spot.instance(), NOTICE_S)
        ran = await spot.until(lambda: not spot.runs())
        limits = cluster.limits()
        last_s = NOTICE_S - limits.interruption_margin_s - limits.stop_grace_s
        assert last_s - 1 <= ran <= NOTICE_S - limits.interruption_margin_s
        await spot.until(lambda: spot.pod().status.phase == PodPhase.FAILED)
        assert spot.pod().status.reason == "SpotInterrupted"
        assert len(spot.world.cloud.instances) == 1

    spot.run(story)
