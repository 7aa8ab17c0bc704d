"""The firewall is kept in line with the settings and with the ports of pods."""

import asyncio
import random
from collections.abc import AsyncIterator, Collection, Mapping, Sequence

import pytest

from milpa_ray.api.meta import ObjectReference
from milpa_ray.api.pod import Pod, PodPhase, Protocol, UnitPort
from milpa_ray.clock import SystemClock
from milpa_ray.controller.committing import Deposed
from milpa_ray.controller.deps import CoordinatorDeps
from milpa_ray.controller.firewall import FirewallDuty
from milpa_ray.controller.leadership import Leadership
from milpa_ray.errors import CloudThrottled, Invalid, first_cause
from milpa_ray.keys import Keys
from milpa_ray.limits import Limits
from milpa_ray.planner.firewall import NODE_GROUP, PORTS_GROUP, FirewallPolicy, OpenPort, ports_group
from milpa_ray.planner.membership import ShardMap
from milpa_ray.ports import AGENT_PORT, Instance, InstanceState, Rule
from milpa_ray.store.memory import MemoryStore
from milpa_ray.store.port import Put, Txn
from tests.simulation.toys import a_pod
from tests.waiting import eventually

VPC = "10.0.0.0/16"
WEB, SSH = OpenPort(Protocol.TCP, 80), OpenPort(Protocol.TCP, 22)
CLOSED = FirewallPolicy(open_to_vpc=False, ports=(SSH,))
OFTEN_S = 0.1
"""Interval of the looks at the cloud, in tests that wait for one."""


class Cloud:
    """A cloud with a firewall and instances. ``refuse`` are errors for the next calls that assign groups."""

    def __init__(self) -> None:
        self.rules: dict[str, frozenset[Rule]] = {}
        self.members: dict[str, set[str]] = {}
        self.refuse: list[Exception] = []
        self.assigned: list[str] = []
        self.looks = 0
        self.gate = asyncio.Event()
        """While it is unset, calls that assign groups wait for it."""
        self.gate.set()
        self.entered = asyncio.Event()

    async def own_ranges(self) -> Sequence[str]:
        return [VPC]

    async def node_groups(self) -> tuple[str, ...]:
        self.rules.setdefault(NODE_GROUP, frozenset())
        return (f"sg-{NODE_GROUP}",)

    async def set_group(self, name: str, rules: Collection[Rule]) -> str:
        self.rules[name] = frozenset(rules)
        return f"sg-{name}"

    async def groups(self) -> Mapping[str, str]:
        return {name: f"sg-{name}" for name in self.rules}

    async def remove_group(self, name: str) -> bool:
        if any(f"sg-{name}" in groups for groups in self.members.values()):
            return False
        del self.rules[name]
        return True

    async def assign(self, instance_id: str, group_ids: Collection[str]) -> None:
        if self.refuse:
            raise self.refuse.pop()
        self.entered.set()
        await self.gate.wait()
        assert {group.removeprefix("sg-") for group in group_ids} <= {*self.rules, "admin"}, "a group that is not there"
        self.assigned.append(instance_id)
        self.members[instance_id] = set(group_ids)

    async def list_instances(self) -> list[Instance]:
        self.looks += 1
        return [
            Instance(id_, InstanceState.RUNNING, security_groups=tuple(groups)) for id_, groups in self.members.items()
        ]

    def ports_of(self, instance_id: str) -> set[int]:
        """Ports below the agent's that the instance's groups open, as far as they are groups for ports."""
        names = {group.removeprefix("sg-") for group in self.members[instance_id]}
        return {rule.low for name in names if name.startswith(PORTS_GROUP) for rule in self.rules[name]}


class Rig:
    def __init__(self) -> None:
        self.store, self.keys, self.cloud = MemoryStore(), Keys("c"), Cloud()
        self.events: list[tuple[str, str, str]] = []
        self._tasks: list[asyncio.Task[None]] = []

    def record(self, involved: ObjectReference, status: str, message: str = "") -> None:
        self.events.append((involved.name, status, message))

    async def lead(self, me: str = "me") -> Leadership:
        shard_map = ShardMap(coordinator=me)
        await self.store.commit(Txn(ops=(Put(self.keys.map, shard_map.to_json()),)))
        return Leadership(self.store, self.keys, me)

    async def start(self, policy: FirewallPolicy = CLOSED, reconcile_s: float = 3600.0) -> "asyncio.Task[None]":
        deps = CoordinatorDeps(
            self.store,
            self.keys,
            SystemClock(),
            random.Random(1),
            Limits(retry_first_s=0.01, retry_max_s=0.05, reconcile_s=reconcile_s),
            lease=None,  # type: ignore[arg-type]
            compute=self.cloud,  # type: ignore[arg-type]
            recorder=self,
            firewall_policy=policy,
        )
        self.duty = FirewallDuty(deps, await self.lead(), self.cloud)
        self._tasks.append(asyncio.create_task(self.duty.run()))
        return self._tasks[-1]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def put(self, name: str, instance: str, *ports: OpenPort) -> None:
        """Stores a pod that runs on the instance, which is in the node group as from its launch."""
        self.cloud.members.setdefault(instance, {f"sg-{NODE_GROUP}"})
        made = a_pod(name, PodPhase.RUNNING, bound_instance_id=instance)
        await self.save(with_ports(made, *ports))

    async def save(self, pod: Pod) -> None:
        await self.store.commit(Txn(ops=(Put(self.keys.pod(pod.name), pod.to_json()),)))

    async def when_open(self, instance: str, *ports: int) -> None:
        await eventually(lambda: self.cloud.ports_of(instance) == set(ports), what=f"{instance} opens {ports}")


def with_ports(pod: Pod, *ports: OpenPort) -> Pod:
    told = tuple(UnitPort(protocol=port.protocol, port=port.port) for port in ports)
    (unit,) = pod.spec.units
    units = (unit.model_copy(update={"ports": told}),)
    return pod.model_copy(update={"spec": pod.spec.model_copy(update={"units": units})})


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    made = Rig()
    yield made
    await made.stop()


async def test_the_node_group_gets_its_rules_by_the_policy(rig: Rig) -> None:
    await rig.start()
    await eventually(lambda: rig.cloud.looks)
    assert rig.cloud.rules[NODE_GROUP] == {
        Rule("tcp", 22, 22, VPC),
        Rule("tcp", AGENT_PORT, AGENT_PORT, VPC),
    }


async def test_an_open_firewall_needs_nothing_for_pods(rig: Rig) -> None:
    await rig.put("web", "i-1", WEB)
    await rig.start(FirewallPolicy(open_to_vpc=True), OFTEN_S)
    await eventually(lambda: rig.cloud.looks >= 2)
    assert set(rig.cloud.rules) == {NODE_GROUP}
    assert not rig.cloud.assigned


async def test_the_ports_of_pods_are_opened_on_their_instances_and_equal_ones_share_a_group(rig: Rig) -> None:
    await rig.put("a", "i-1", WEB)
    await rig.put("none", "i-2")
    await rig.start()
    await rig.when_open("i-1", 80)
    await rig.put("b", "i-3", WEB)
    await rig.put("c", "i-4", WEB, OpenPort(Protocol.UDP, 53))
    await rig.when_open("i-3", 80)
    await rig.when_open("i-4", 53, 80)
    assert set(rig.cloud.rules) == {NODE_GROUP, ports_group([WEB]), ports_group([WEB, OpenPort(Protocol.UDP, 53)])}
    assert "i-2" not in rig.cloud.assigned
    assert all(f"sg-{NODE_GROUP}" in groups for groups in rig.cloud.members.values())


async def test_ports_that_change_are_opened_and_closed(rig: Rig) -> None:
    await rig.start()
    await rig.put("a", "i-1", WEB)
    await rig.when_open("i-1", 80)
    await rig.put("a", "i-1", SSH)
    await rig.when_open("i-1", 22)
    await rig.put("a", "i-1")
    await rig.when_open("i-1")
    assert rig.cloud.members["i-1"] == {f"sg-{NODE_GROUP}"}


async def test_ports_that_change_while_the_cloud_is_called_are_not_forgotten(rig: Rig) -> None:
    await rig.start()
    rig.cloud.gate.clear()
    await rig.put("a", "i-1", WEB)
    await rig.cloud.entered.wait()
    await rig.put("a", "i-1", SSH)
    await rig.put("b", "i-2", WEB)
    await eventually(lambda: rig.duty.dump()["instances with ports"] == 2)  # so it has heard of all three
    rig.cloud.gate.set()
    await rig.when_open("i-2", 80)
    await rig.when_open("i-1", 22)


async def test_a_pod_without_an_instance_opens_nothing_until_it_has_one(rig: Rig) -> None:
    await rig.start()
    await rig.save(with_ports(a_pod("a"), WEB))
    await rig.put("b", "i-2", SSH)
    await rig.when_open("i-2", 22)
    assert set(rig.cloud.rules) == {NODE_GROUP, ports_group([SSH])}
    await rig.put("a", "i-1", WEB)
    await rig.when_open("i-1", 80)


async def test_a_pod_on_another_instance_opens_its_ports_there_and_leaves_the_old_one_alone(rig: Rig) -> None:
    await rig.start()
    await rig.put("a", "i-1", WEB)
    await rig.when_open("i-1", 80)
    await rig.put("a", "i-2", WEB)
    await rig.when_open("i-2", 80)
    assert rig.cloud.assigned == ["i-1", "i-2"]


async def test_a_new_leader_mends_what_is_wrong_and_keeps_groups_of_others(rig: Rig) -> None:
    old = ports_group([SSH])
    rig.cloud.rules = {NODE_GROUP: frozenset({Rule("all", -1, -1, "0.0.0.0/0")}), old: frozenset()}
    await rig.put("a", "i-1", WEB)
    rig.cloud.members["i-1"] = {f"sg-{NODE_GROUP}", f"sg-{old}", "sg-admin"}
    await rig.start()
    await rig.when_open("i-1", 80)
    assert rig.cloud.members["i-1"] == {f"sg-{NODE_GROUP}", f"sg-{ports_group([WEB])}", "sg-admin"}
    assert Rule("all", -1, -1, "0.0.0.0/0") not in rig.cloud.rules[NODE_GROUP]


async def test_what_is_right_already_is_left_as_it_is(rig: Rig) -> None:
    await rig.put("a", "i-1", WEB)
    rig.cloud.members["i-1"] = {f"sg-{NODE_GROUP}", f"sg-{ports_group([WEB])}"}
    await rig.start(reconcile_s=OFTEN_S)
    await eventually(lambda: rig.cloud.looks >= 2)
    assert not rig.cloud.assigned


async def test_what_others_change_is_mended_now_and_then(rig: Rig) -> None:
    await rig.put("a", "i-1", WEB)
    await rig.start(reconcile_s=OFTEN_S)
    await rig.when_open("i-1", 80)
    rig.cloud.rules[ports_group([WEB])] = frozenset()
    rig.cloud.members["i-1"] = {f"sg-{NODE_GROUP}"}
    await rig.when_open("i-1", 80)


async def test_groups_that_no_pod_needs_go_when_no_instance_is_in_them(rig: Rig) -> None:
    await rig.put("a", "i-1", WEB)
    await rig.start(reconcile_s=OFTEN_S)
    await rig.when_open("i-1", 80)
    rig.cloud.rules["web"] = frozenset()  # a Service's
    await rig.save(a_pod("a"))  # it waits for another instance
    looks = rig.cloud.looks
    await eventually(lambda: rig.cloud.looks >= looks + 2)
    assert ports_group([WEB]) in rig.cloud.rules
    del rig.cloud.members["i-1"]  # its instance has ended
    await eventually(lambda: set(rig.cloud.rules) == {NODE_GROUP, "web"})


async def test_a_call_that_the_cloud_puts_off_is_made_again(rig: Rig) -> None:
    rig.cloud.refuse = [CloudThrottled("slower") for _ in range(3)]
    await rig.put("a", "i-1", WEB)
    await rig.put("b", "i-2", SSH)
    await rig.start()
    await rig.when_open("i-1", 80)
    await rig.when_open("i-2", 22)
    assert not rig.events


async def test_a_pod_whose_ports_cannot_be_opened_is_told_and_hinders_no_other(rig: Rig) -> None:
    rig.cloud.refuse = [Invalid("too many groups")]
    await rig.put("a", "i-1", WEB)
    await rig.put("b", "i-2", SSH)
    await rig.start()
    await rig.when_open("i-2", 22)
    assert rig.events == [("a", "firewall-failed", "too many groups")]


async def test_who_does_not_lead_any_more_changes_nothing(rig: Rig) -> None:
    task = await rig.start(reconcile_s=OFTEN_S)
    await eventually(lambda: rig.cloud.looks)
    await rig.lead("another")
    with pytest.raises(ExceptionGroup) as caught:
        await task
    assert isinstance(first_cause(caught.value), Deposed)
    looks = rig.cloud.looks
    await rig.put("a", "i-1", WEB)
    assert rig.cloud.looks == looks
    assert not rig.cloud.assigned
