"""Places the real controllers into a world: coordinators and shards, wired as ``shards/`` wires them."""

import numpy as np

from milpa_ray.controller.coordinator import Coordinator
from milpa_ray.controller.deps import CoordinatorDeps, ShardDeps
from milpa_ray.controller.shard import Shard
from milpa_ray.events import EventRecorder
from milpa_ray.planner.catalogue import Catalogue
from milpa_ray.planner.choose import Offers
from tests.simulation.leases import SimLease
from tests.simulation.scenario import Size, limits
from tests.simulation.world import Ports, Program, World

ZONES = ("zone-a", "zone-b")


def catalogue() -> Catalogue:
    """One small type in two zones."""
    no, yes = np.array([False]), np.array([True])
    return Catalogue(
        region="sim",
        names=("t3.nano",),
        zones=ZONES,
        family=np.array(["t3"]),
        generation=np.array([3]),
        vcpus=np.array([2.0]),
        memory_mib=np.array([512]),
        gpu_count=np.array([0]),
        gpu_name=np.array([""]),
        gpu_memory_mib=np.array([0]),
        arch=np.array(["amd64"]),
        burstable=yes,
        flex=no,
        baseline=np.array([0.1]),
        surcharge=np.array([0.05]),
        unlimited_by_default=yes,
        bare_metal=no,
        current_generation=yes,
        price_on_demand=np.array([0.0052]),
        price_spot=np.array([0.0016]),
        price_spot_zone=np.array([[0.0016, 0.0016]]),
        offered=np.array([[True, True]]),
    )


def shard(shard_id: str) -> Program:
    async def program(ports: Ports) -> None:
        lease_ttl_s = limits().lease_ttl_s
        async with EventRecorder(ports.store, ports.keys, ports.clock, ports.process.name) as recorder:
            deps = ShardDeps(
                store=ports.store,
                keys=ports.keys,
                clock=ports.clock,
                rng=ports.rng,
                limits=limits(),
                lease=lambda: SimLease(ports.store, lease_ttl_s),
                dialer=ports.dialer,
                recorder=recorder,
                offers=Offers(catalogue(), "t3.nano"),
            )
            await Shard(deps, shard_id).run()

    return program


async def coordinator(ports: Ports) -> None:
    async with EventRecorder(ports.store, ports.keys, ports.clock, ports.process.name) as recorder:
        deps = CoordinatorDeps(
            store=ports.store,
            keys=ports.keys,
            clock=ports.clock,
            rng=ports.rng,
            limits=limits(),
            lease=lambda: SimLease(ports.store, limits().lease_ttl_s),
            compute=ports.compute,
            recorder=recorder,
            label_instances=True,
        )
        await Coordinator(deps).run()


def place_cluster(world: World, size: Size) -> None:
    """Starts the controllers of a scenario."""
    for number in range(size.coordinators):
        world.place(f"coordinator-{number}", "coordinator", coordinator)
    for number in range(size.shards):
        world.place(f"shard-{number}", "shard", shard(str(number)))
