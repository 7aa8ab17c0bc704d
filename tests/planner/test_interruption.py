"""A spot interruption as tables: the notice, the replacement beside it, the stop in time, and the way on."""

from datetime import timedelta
from typing import Any

import pytest

from milpa_ray.api.node import Node, NodePhase
from milpa_ray.api.pod import PlacementSpec, Pod, PodPhase, PodSpot, RestartPolicy, SpotPolicy
from milpa_ray.planner.check import violations
from milpa_ray.planner.interruption import SPOT_INTERRUPTED
from milpa_ray.planner.shard import plan_shard
from milpa_ray.planner.snapshot import AgentFacts, CasePlan
from tests.planner.factories import (
    LIMITS,
    NOW,
    OFFERS,
    make_case,
    make_node,
    make_pod,
    make_snapshot,
    ready,
    unit,
    written,
)

W, D, R = PodPhase.WAITING, PodPhase.DISPATCHING, PodPhase.RUNNING
ZONE = "us-east-1a"
SPOT = PodSpot(policy=SpotPolicy.ALWAYS)
NEVER = RestartPolicy.NEVER


def at(left_s: float) -> Any:
    return NOW + timedelta(seconds=left_s)


def spot_pod(phase: PodPhase = R, **changes: Any) -> Pod:
    return make_pod(phase, **{"spot": SPOT, "bound_instance_id": "i-1"} | changes)


def spot_node(phase: NodePhase = NodePhase.CLAIMED, name: str = "n1", *, zone: str = ZONE, **changes: Any) -> Node:
    node = make_node(phase, name, **changes)
    placement = PlacementSpec(availability_zone=zone)
    return node.model_copy(update={"spec": node.spec.model_copy(update={"spot": True, "placement": placement})})


def leaving(left_s: float = 120.0, **changes: Any) -> Node:
    """The pod's node, with the notice recorded."""
    return spot_node(
        terminate=True, interruption_at=at(left_s), reason=SPOT_INTERRUPTED, message="taken back", **changes
    )


def told(left_s: float = 120.0, **changes: Any) -> AgentFacts:
    """The agent of a running pod, with the notice."""
    return ready(unit("running"), interruption_at=at(left_s), **changes)


def plan(pod: Pod | None, *nodes: Node, agent: AgentFacts | None = None) -> CasePlan:
    case = make_case(pod, *nodes, agent=agent)
    result = plan_shard(make_snapshot(case))[0]
    assert violations(case, result) == []
    return result


def stops(result: CasePlan) -> list[float]:
    return [effect.grace_s for effect in result.effects if effect.verb == "stop"]


def statuses(result: CasePlan) -> list[str]:
    return [notice.status for notice in result.notices]


def test_a_notice_is_recorded_and_the_replacement_begun_in_one_transaction() -> None:
    result = plan(spot_pod(), spot_node(), agent=told())
    pod, old, new = (written(result)[name] for name in ("web", "n1", "fresh"))
    assert isinstance(pod, Pod)
    assert isinstance(old, Node)
    assert isinstance(new, Node)
    assert (old.status.phase, old.spec.terminate, old.status.reason) == (NodePhase.CLAIMED, True, SPOT_INTERRUPTED)
    assert old.status.interruption_at == at(120)
    assert (new.status.phase, new.status.pod_uid, new.spec.spot) == (NodePhase.CREATING, "u1", True)
    # It runs on meanwhile, and its user can see why it will move.
    assert (pod.status.phase, pod.status.reason, pod.status.bound_node_name) == (R, "", "n1")
    assert "takes its spot instance i-1 back at 12:02:00 UTC; its next node is a t3.nano" in pod.status.message
    assert result.effects == ()
    assert statuses(result) == ["node-interrupted", "pod-spot-interrupted", "node-created"]


def test_the_replacement_avoids_what_is_taken_back() -> None:
    zones = OFFERS.catalogue.zones_of("t3.nano")
    for zone in zones:
        new = written(plan(spot_pod(), spot_node(zone=zone), agent=told()))["fresh"]
        assert isinstance(new, Node)
        assert new.spec.placement.availability_zone in set(zones) - {zone}
    # A case planned in the same pass avoids it, too.
    cases = (make_case(spot_pod(), spot_node(), agent=told()), make_case(spot_pod(W, uid="u2", name="web")))
    pinned = spot_pod(W, placement=PlacementSpec(availability_zone=ZONE))
    refused = plan_shard(make_snapshot(cases[0], make_case(pinned)))[1]
    assert written(refused)["web"].status.reason == "InsufficientInstanceCapacity"  # type: ignore[union-attr]


def test_nothing_happens_twice() -> None:
    first = plan(spot_pod(), spot_node(), agent=told())
    pod, *nodes = written(first).values()
    result = plan(pod, *nodes, agent=told())  # type: ignore[arg-type]
    assert (result.writes, result.effects, result.notices) == ((), (), ())
    assert result.wake_s == pytest.approx(120 - LIMITS.interruption_margin_s - LIMITS.stop_grace_s)


@pytest.mark.parametrize(
    ("left_s", "replacement", "stop"),
    [
        (120, NodePhase.CREATING, False),
        (120, NodePhase.CREATED, False),
        (120, NodePhase.AVAILABLE, True),
        (46, NodePhase.CREATED, False),
        (45, NodePhase.CREATED, True),
        (45, None, True),
        (-5, NodePhase.CREATED, True),
    ],
)
def test_the_stop_begins_when_the_other_node_is_up_or_the_time_is_needed(
    left_s: float, replacement: NodePhase | None, stop: bool
) -> None:
    others = () if replacement is None else (spot_node(replacement, "n2", instance_id="i-2"),)
    result = plan(spot_pod(message="m"), leaving(left_s), *others, agent=told(left_s))
    pod = written(result).get("web")
    assert (pod is not None and pod.status.reason == SPOT_INTERRUPTED) == stop
    assert result.effects == ()  # First the record, then the call.


@pytest.mark.parametrize(("left_s", "grace_s"), [(120, 30), (45, 30), (30, 15), (15, 0), (-60, 0)])
def test_the_grace_fits_into_the_notice(left_s: float, grace_s: float) -> None:
    stopping = spot_pod(reason=SPOT_INTERRUPTED)
    other = spot_node(NodePhase.CREATED, "n2")
    assert stops(plan(stopping, leaving(left_s), other, agent=told(left_s))) == [pytest.approx(grace_s)]


def test_a_user_who_ends_the_pod_meanwhile_wins() -> None:
    ending = spot_pod(deletion_timestamp=at(-1), message="m")
    other = spot_node(NodePhase.CREATED, "n2", instance_id="i-2")
    result = plan(ending, leaving(40), other, agent=told(40))
    assert written(result)["n2"].status.phase == NodePhase.TERMINATING  # type: ignore[union-attr]
    assert "web" not in written(result)
    assert stops(plan(ending, leaving(40), agent=told(40))) == [25]


@pytest.mark.parametrize("other", [NodePhase.CREATING, NodePhase.AVAILABLE])
def test_only_a_confirmed_stop_frees_the_pod_and_then_it_binds_to_its_other_node(other: NodePhase) -> None:
    stopping, new = spot_pod(reason=SPOT_INTERRUPTED, message="m"), spot_node(other, "n2")
    assert "web" not in written(plan(stopping, leaving(), new, agent=told()))
    assert "web" not in written(plan(stopping, leaving(), new, agent=AgentFacts(silent_s=20)))
    result = plan(stopping, leaving(), new, agent=told(stopped=True))
    pod, old = written(result)["web"], written(result)["n1"]
    assert isinstance(pod, Pod)
    assert isinstance(old, Node)
    assert (pod.status.phase, pod.status.reason, pod.status.bound_node_name) == (W, SPOT_INTERRUPTED, "")
    assert old.status.phase == NodePhase.CLEANING
    assert set(written(result)) == {"web", "n1"}
    after = plan(pod, old, new)
    bound = written(after).get("web")
    assert (bound is not None) == (other == NodePhase.AVAILABLE)
    if isinstance(bound, Pod):
        assert (bound.status.phase, bound.status.bound_node_name, bound.status.reason) == (D, "n2", "")


def test_an_instance_that_goes_before_the_stop_is_confirmed_is_proof_too() -> None:
    gone = leaving().model_copy(update={"status": leaving().status.model_copy(update={"phase": NodePhase.TERMINATED})})
    result = plan(spot_pod(), gone, spot_node(NodePhase.AVAILABLE, "n2"))
    pod = written(result)["web"]
    assert (pod.status.phase, pod.status.reason) == (W, SPOT_INTERRUPTED)  # type: ignore[union-attr]
    assert statuses(result) == ["pod-node-lost"]


class TestNeverRestarted:
    """A pod that is not restarted gets no other node, and as much time as there is."""

    def test_it_runs_as_long_as_it_may(self) -> None:
        result = plan(spot_pod(restart_policy=NEVER), spot_node(), agent=told())
        assert set(written(result)) == {"web", "n1"}
        pod = written(result)["web"]
        assert (pod.status.phase, pod.status.reason) == (R, "")  # type: ignore[union-attr]
        assert "pod-spot-interrupted" in statuses(result)

    def test_it_may_still_succeed(self) -> None:
        done = ready(unit("terminated", 0), interruption_at=at(60))
        pod = written(plan(spot_pod(restart_policy=NEVER), leaving(60), agent=done))["web"]
        assert pod.status.phase == PodPhase.SUCCEEDED  # type: ignore[union-attr]

    def test_what_a_stopped_unit_exits_with_is_not_its_result(self) -> None:
        stopping = spot_pod(restart_policy=NEVER, reason=SPOT_INTERRUPTED, message="m")
        halfway = ready(unit("terminated", 0), interruption_at=at(40))
        assert "web" not in written(plan(stopping, leaving(40), agent=halfway))
        result = plan(stopping, leaving(40), agent=told(40, stopped=True))
        pod = written(result)["web"]
        assert (pod.status.phase, pod.status.reason) == (PodPhase.FAILED, SPOT_INTERRUPTED)  # type: ignore[union-attr]
        assert "pod-failed" in statuses(result)


def test_a_pod_that_has_not_begun_is_never_dispatched_there() -> None:
    notice = AgentFacts(ready=True, units=(), interruption_at=at(120))
    first = plan(spot_pod(D), spot_node(), agent=notice)
    pod, old, new = (written(first)[name] for name in ("web", "n1", "fresh"))
    assert (pod.status.phase, pod.status.reason) == (D, SPOT_INTERRUPTED)  # type: ignore[union-attr]
    assert first.effects == ()
    assert stops(plan(pod, old, new, agent=notice)) == [30]  # type: ignore[arg-type]


def test_no_newer_generation_is_sent_there() -> None:
    pod = spot_pod(generation=2, dispatched_generation=1, unit_statuses=(unit("running"),), message="m", ready_time=NOW)
    result = plan(pod, leaving(), spot_node(NodePhase.CREATED, "n2"), agent=told())
    assert (result.effects, result.writes) == ((), ())


@pytest.mark.parametrize("phase", [NodePhase.CREATED, NodePhase.AVAILABLE])
def test_a_node_without_a_pod_is_ended_at_once_and_another_made(phase: NodePhase) -> None:
    notice = AgentFacts(ready=True, units=(), interruption_at=at(120))
    result = plan(spot_pod(W), spot_node(phase), agent=notice)
    after = written(result)
    assert after["n1"].status.phase == NodePhase.TERMINATING  # type: ignore[union-attr]
    assert after["fresh"].status.phase == NodePhase.CREATING  # type: ignore[union-attr]
    assert after["web"].status.phase == W  # type: ignore[union-attr]


@pytest.mark.parametrize("phase", [NodePhase.CLEANING, NodePhase.TERMINATING, NodePhase.TERMINATED])
def test_a_notice_for_a_node_that_ends_anyway_changes_nothing(phase: NodePhase) -> None:
    node = spot_node(phase)
    found = written(plan(None, node, agent=AgentFacts(ready=True, units=(), interruption_at=at(120)))).get("n1", node)
    assert found is not None
    assert found.status.interruption_at is None  # type: ignore[union-attr]


def test_an_on_demand_instance_is_never_taken_back_whatever_its_agent_says() -> None:
    pod = make_pod(R, dispatched_generation=1, unit_statuses=(unit("running"),), ready_time=NOW)
    assert plan(pod, make_node(), agent=told()).writes == ()


class TestWithoutAReplacement:
    def test_a_failed_launch_is_tried_again_elsewhere(self) -> None:
        full = spot_node(NodePhase.TERMINATED, "n2", reason="InsufficientInstanceCapacity", instance_id="")
        assert "fresh" in written(plan(spot_pod(), leaving(), full, agent=told()))

    def test_a_rejected_launch_is_not_repeated_at_once(self) -> None:
        rejected = spot_node(NodePhase.TERMINATED, "n2", reason="LaunchRejected", message="no", instance_id="")
        assert "fresh" not in written(plan(spot_pod(), leaving(), rejected, agent=told()))

    def test_nothing_to_choose_is_told_once_and_the_pod_runs_on(self) -> None:
        pinned = spot_pod(placement=PlacementSpec(availability_zone=ZONE))
        first = plan(pinned, spot_node(), agent=told())
        pod, old = written(first)["web"], written(first)["n1"]
        assert isinstance(pod, Pod)
        assert (pod.status.phase, pod.status.reason) == (R, "")
        assert "a moment ago" in pod.status.message
        assert "pod-unschedulable" in statuses(first)
        again = plan(pod, old, agent=told())  # type: ignore[arg-type]
        assert (again.writes, again.notices) == ((), ())
        assert again.wake_s is not None

    def test_a_pod_whose_start_has_just_failed_gets_none_before_its_stop(self) -> None:
        broken = spot_pod(reason="StartFailed", message="unit main: gone")
        result = plan(broken, spot_node(), agent=told())
        assert set(written(result)) == {"n1"}


def test_a_silent_agent_is_given_up_within_the_notice() -> None:
    result = plan(spot_pod(reason=SPOT_INTERRUPTED), leaving(), agent=AgentFacts(silent_s=LIMITS.unhealthy_after_s))
    after = written(result)
    assert after["n1"].status.phase == NodePhase.CLEANING  # type: ignore[union-attr]
    pod = after.get("web")
    assert pod is None or pod.status.bound_node_name == "n1"  # type: ignore[union-attr]
