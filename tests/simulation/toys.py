"""Small programs that do right or wrong on purpose: the invariants hold for the one and catch the other."""

import asyncio
import json
from collections.abc import Callable

from milpa_ray.api.meta import ObjectMeta
from milpa_ray.api.node import Node, NodePhase, NodeSpec, NodeStatus
from milpa_ray.api.pod import Pod, PodPhase, PodSpec, PodStatus, Unit
from milpa_ray.errors import AgentUnreachable, LeaseGone, StoreUnavailable
from milpa_ray.keys import Keys
from milpa_ray.ports import AgentAddress, DesiredPod, LaunchCall, Token, bootstrap_identity
from milpa_ray.store.port import Compare, Op, Put, Txn
from tests.simulation.leases import SimLease
from tests.simulation.world import EPOCH, Ports

TYPE = "t3.nano"


def elected(*, fenced: bool) -> Callable[[Ports], object]:
    """A leader that counts in a record. Not fenced, it writes on in the belief that its lease still stands."""

    async def program(ports: Ports) -> None:
        me = f"{ports.process.name}-{ports.rng.getrandbits(64):x}"
        while True:
            try:
                lease = SimLease(ports.store, 5)
                revision = await _lead(ports, me, await lease.start())
                while not lease.lost.is_set():
                    await asyncio.sleep(0.5)
                    compares = (Compare(ports.keys.map, revision),) if fenced else ()
                    await ports.store.commit(Txn(compares, (Put(ports.keys.other("batch", "count"), me.encode()),)))
            except (StoreUnavailable, LeaseGone):
                await asyncio.sleep(1)

    return program


async def _lead(ports: Ports, me: str, lease: int) -> int:
    """Waits for leadership and takes it by rewriting the map; the map's revision."""
    keys, store = ports.keys, ports.store
    value = json.dumps({"term": 1, "coordinator": me, "shards": []}).encode()
    while True:
        known = await store.get(keys.map)
        compares = (Compare(keys.leader, 0), Compare(keys.map, known.mod_revision if known else 0))
        result = await store.commit(Txn(compares, (Put(keys.leader, me.encode(), lease), Put(keys.map, value))))
        if result.ok:
            return result.revision
        await asyncio.sleep(1)


def a_pod(name: str = "web", phase: PodPhase = PodPhase.WAITING, **status: object) -> Pod:
    return Pod(
        metadata=ObjectMeta(name=name, uid=f"uid-{name}", generation=1, creation_timestamp=EPOCH),
        spec=PodSpec(units=(Unit(name="u0", image="sim"),), instance_type=TYPE),
        status=PodStatus(phase=phase, **status),
    )


def a_node(name: str, phase: NodePhase, pod: str = "web", instance: str = "") -> Node:
    return Node(
        metadata=ObjectMeta(name=name, uid=name, generation=1),
        spec=NodeSpec(instance_type=TYPE),
        status=NodeStatus(phase=phase, bound_pod_name=pod, pod_uid=f"uid-{pod}", instance_id=instance),
    )


class Hand:
    """Writes and calls step by step, as one owner that is in the map."""

    def __init__(self, ports: Ports) -> None:
        self.ports = ports
        self.keys: Keys = ports.keys
        self.token = Token(0, 0)

    async def own_all(self, incarnation: str = "hand") -> None:
        """Enters the map as the only shard."""
        await self.own(0, 1024, incarnation)

    async def own(self, low: int, high: int, incarnation: str = "hand") -> None:
        """Enters the map as the only shard, with these slots."""
        self.ports.process.identities.add(incarnation)
        entry = {"id": "0", "incarnation": incarnation, "low": low, "high": high}
        known = await self.ports.store.get(self.keys.map)
        value = json.dumps({"term": 1, "coordinator": "", "shards": [entry]}).encode()
        compare = Compare(self.keys.map, known.mod_revision if known else 0)
        result = await self.ports.store.commit(Txn((compare,), (Put(self.keys.map, value),)))
        self.token = Token(1, result.revision)

    async def write(self, *ops: Op) -> bool:
        fence = Compare(self.keys.map, self.token.revision)
        return (await self.ports.store.commit(Txn((fence,), ops))).ok

    def put(self, obj: Pod | Node, pod: str = "web") -> Put:
        key = self.keys.pod(obj.name) if isinstance(obj, Pod) else self.keys.node(_slot(self.keys, pod), obj.name)
        return Put(key, obj.to_json())

    async def launch(self, token: str, count: int = 1) -> list[str]:
        """Instances whose agents answer; their ids."""
        await self.write(Put(self.keys.prefix("batch") + token, b"{}"))
        made = await self.ports.compute.launch(LaunchCall(token, count, TYPE, "zone-a", subnet="subnet-1"))
        while not all(i.id in self.ports.world.machines for i in made):  # noqa: ASYNC110
            await asyncio.sleep(1)
        return [instance.id for instance in made]

    async def dispatch(self, instance_id: str, pod: Pod) -> None:
        machine = self.ports.world.machines[instance_id]
        address = AgentAddress(machine.instance.ip, bootstrap_identity(machine.batch))
        try:
            await self.ports.dialer.dial(address).dispatch(self.token, DesiredPod(pod))
        except AgentUnreachable:
            await asyncio.sleep(1)


def _slot(keys: Keys, pod: str) -> int:
    parsed = keys.parse(keys.pod(pod))
    assert parsed is not None
    return parsed.slot
