"""Root volumes at dispatch: first the record that asks for more, then the cloud, then the pod."""

import pytest

from milpa_ray.api.node import Node, NodePhase
from milpa_ray.api.pod import Pod, PodPhase, ResourceSpec
from milpa_ray.planner.check import violations
from milpa_ray.planner.shard import plan_shard
from milpa_ray.planner.snapshot import CasePlan
from milpa_ray.planner.volumes import VOLUME_NOT_GROWN, gib, growth_wanted
from tests.planner.factories import EMPTY_AGENT, make_case, make_node, make_pod, make_snapshot, written


def sized_node(asked: str = "", has_gib: int = 5, phase: NodePhase = NodePhase.CLAIMED, **changes: object) -> Node:
    """A node whose record asks for so much, and which has so much."""
    node = make_node(phase, volume_gib=has_gib, **changes)
    return node.model_copy(update={"spec": node.spec.model_copy(update={"resources": ResourceSpec(volume_size=asked)})})


def plan(size: str, node: Node) -> CasePlan:
    pod = make_pod(PodPhase.DISPATCHING, resources=ResourceSpec(volume_size=size))
    case = make_case(pod, node, agent=EMPTY_AGENT)
    result = plan_shard(make_snapshot(case))[0]
    assert violations(case, result) == []
    return result


@pytest.mark.parametrize("size", ["", "1Gi", "5Gi", "5G"])
def test_a_pod_that_has_room_is_dispatched(size: str) -> None:
    result = plan(size, sized_node())
    assert ([effect.verb for effect in result.effects], result.writes) == (["dispatch"], ())


def test_a_pod_that_asks_for_more_waits_until_the_volume_is_grown() -> None:
    asked = plan("60Gi", sized_node())
    node = written(asked)["n1"]
    assert isinstance(node, Node)
    assert (list(written(asked)), asked.effects) == (["n1"], ())
    assert growth_wanted(node) == 60
    waiting = plan("60Gi", node)
    assert (waiting.writes, waiting.effects) == ((), ())
    grown = node.model_copy(update={"status": node.status.model_copy(update={"volume_gib": 60})})
    assert growth_wanted(grown) == 0
    assert [effect.verb for effect in plan("60Gi", grown).effects] == ["dispatch"]


def test_a_volume_that_cannot_grow_is_a_start_failure() -> None:
    stuck = sized_node("60Gi", reason=VOLUME_NOT_GROWN, message="refused: too soon")
    assert growth_wanted(stuck) == 0
    pod = written(plan("60Gi", stuck))["web"]
    assert isinstance(pod, Pod)
    assert (pod.status.reason, pod.status.message) == ("StartFailed", "refused: too soon")


@pytest.mark.parametrize("phase", [phase for phase in NodePhase if phase != NodePhase.CLAIMED])
def test_only_a_claimed_node_grows(phase: NodePhase) -> None:
    assert growth_wanted(sized_node("60Gi", phase=phase)) == 0


@pytest.mark.parametrize(("size", "found"), [("", 0), ("1", 1), ("1Gi", 1), ("5G", 5), ("5.5Gi", 6), ("1Ti", 1024)])
def test_sizes_are_rounded_up_to_gib(size: str, found: int) -> None:
    assert gib(size) == found
