"""The pod's life as tables: (what is) -> (what is written, what agents are asked, what users are told)."""

import pytest

from milpa_ray.api.node import NodePhase
from milpa_ray.api.pod import PodPhase, RestartPolicy
from milpa_ray.planner.check import violations
from milpa_ray.planner.shard import plan_shard
from milpa_ray.planner.snapshot import AgentFacts, Case, CasePlan
from tests.planner.factories import (
    EMPTY_AGENT,
    LIMITS,
    NOW,
    ago,
    make_case,
    make_node,
    make_pod,
    make_snapshot,
    ready,
    unit,
    written,
)

W, D, R = PodPhase.WAITING, PodPhase.DISPATCHING, PodPhase.RUNNING


def plan(case: Case) -> CasePlan:
    result = plan_shard(make_snapshot(case))[0]
    assert violations(case, result) == []
    return result


def statuses(result: CasePlan) -> list[str]:
    return [notice.status for notice in result.notices]


def verbs(result: CasePlan) -> list[str]:
    return [effect.verb for effect in result.effects]


def test_a_waiting_pod_gets_a_node_of_the_default_type() -> None:
    result = plan(make_case(make_pod()))
    node = written(result)["fresh"]
    assert node is not None
    assert (node.status.phase, node.spec.instance_type) == (NodePhase.CREATING, "t3.nano")
    assert node.status.pod_uid == "u1"
    assert node.status.price_usd_hour == pytest.approx(0.0052)
    # The pod is written in the same transaction: a commit that arrives twice can make no second node.
    pod = written(result)["web"]
    assert pod is not None
    assert (pod.status.phase, pod.status.reason) == (W, "Launching")
    assert [(write.key, write.before) for write in result.writes] == [("/o/0001/pod/web", 7), ("/o/0001/node/fresh", 0)]


def test_the_reason_of_a_failed_start_stays_while_the_next_node_is_made() -> None:
    pod = make_pod(start_failures=1, message="unit main: ErrImagePull; trying again")
    after = written(plan(make_case(pod)))["web"]
    assert after is not None
    assert after.status.message == "unit main: ErrImagePull; trying again"


def test_a_pod_that_fits_no_type_says_why_once() -> None:
    pod = make_pod(instance_type="t9.huge")
    result = plan(make_case(pod))
    told = written(result)["web"]
    assert told is not None
    assert "t9.huge" in told.status.message
    assert result.wake_s is not None
    again = plan(make_case(told))  # type: ignore[arg-type]
    assert again.writes == ()
    assert again.notices == ()


@pytest.mark.parametrize("phase", [NodePhase.CREATING, NodePhase.CREATED])
def test_no_second_node_while_one_boots(phase: NodePhase) -> None:
    assert plan(make_case(make_pod(), make_node(phase))).writes == ()


def test_an_available_node_is_claimed_together_with_the_dispatch() -> None:
    result = plan(make_case(make_pod(), make_node(NodePhase.AVAILABLE)))
    after = written(result)
    assert after["n1"].status.phase == NodePhase.CLAIMED  # type: ignore[union-attr]
    assert after["web"].status.phase == D  # type: ignore[union-attr]
    assert after["web"].status.bound_node_name == "n1"  # type: ignore[union-attr]


def test_an_agent_that_holds_nothing_gets_the_dispatch() -> None:
    result = plan(make_case(make_pod(D), make_node(), agent=EMPTY_AGENT))
    assert (verbs(result), result.writes) == (["dispatch"], ())


@pytest.mark.parametrize("facts", [AgentFacts(), AgentFacts(ready=True), AgentFacts(units=())])
def test_no_dispatch_before_the_agent_has_answered_and_reported(facts: AgentFacts) -> None:
    result = plan(make_case(make_pod(D), make_node(), agent=facts))
    assert (result.effects, result.writes) == ((), ())


def test_no_dispatch_while_one_is_under_way() -> None:
    busy = AgentFacts(ready=True, units=(), busy=frozenset({"dispatch"}))
    assert plan(make_case(make_pod(D), make_node(), agent=busy)).effects == ()


def test_a_reported_pod_runs_and_the_event_names_its_node() -> None:
    result = plan(make_case(make_pod(D), make_node(), agent=ready(unit("running"))))
    pod = written(result)["web"]
    assert pod is not None
    assert pod.status.phase == R
    assert pod.status.ready_time == NOW
    assert pod.status.dispatched_generation == 1
    assert [n.message for n in result.notices] == ["web running on node n1"]


def test_an_unchanged_report_writes_nothing() -> None:
    first = plan(make_case(make_pod(D), make_node(), agent=ready(unit("running"))))
    pod = written(first)["web"]
    assert plan(make_case(pod, make_node(), agent=ready(unit("running")))).writes == ()  # type: ignore[arg-type]


def test_a_changed_spec_is_dispatched_to_the_same_node() -> None:
    pod = make_pod(R, generation=2, dispatched_generation=1, unit_statuses=(unit("running"),))
    assert verbs(plan(make_case(pod, make_node(), agent=ready(unit("running"))))) == ["dispatch"]


@pytest.mark.parametrize(
    ("policy", "states", "phase"),
    [
        ("always", (("terminated", 0),), R),
        ("always", (("terminated", 1),), R),
        ("onFailure", (("terminated", 0),), PodPhase.SUCCEEDED),
        ("onFailure", (("terminated", 0), ("running", 0)), R),
        ("onFailure", (("terminated", 1),), R),
        ("never", (("terminated", 0),), PodPhase.SUCCEEDED),
        ("never", (("terminated", 3),), PodPhase.FAILED),
        ("never", (("terminated", None),), PodPhase.FAILED),
        ("never", (("terminated", 0), ("terminated", 2)), PodPhase.FAILED),
        ("never", (("terminated", 0), ("running", 0)), R),
    ],
)
def test_units_decide_how_a_pod_ends(policy: str, states: tuple[tuple[str, int | None], ...], phase: PodPhase) -> None:
    units = tuple(unit(state, code, f"u{i}") for i, (state, code) in enumerate(states))
    pod = make_pod(R, restart_policy=RestartPolicy(policy))
    after = written(plan(make_case(pod, make_node(), agent=ready(*units))))
    assert after["web"].status.phase == phase  # type: ignore[union-attr]
    node = after.get("n1")
    assert (node is not None and node.status.phase == NodePhase.CLEANING) == (phase != R)


@pytest.mark.parametrize("other", ["running", "waiting"])
def test_a_failed_unit_under_never_stops_the_others_before_the_pod_is_failed(other: str) -> None:
    # One that is just being started would else run on a node that is being cleaned.
    pod = make_pod(R, restart_policy=RestartPolicy.NEVER)
    units = (unit("terminated", 7, "a"), unit(other, name="b"))
    marked = written(plan(make_case(pod, make_node(), agent=ready(*units))))["web"]
    assert marked is not None
    assert (marked.status.phase, marked.status.reason) == (R, "UnitFailed")
    asked = plan(make_case(marked, make_node(), agent=ready(*units)))  # type: ignore[arg-type]
    assert verbs(asked) == ["stop"]
    stopped = plan(make_case(marked, make_node(), agent=ready(*units, stopped=True)))  # type: ignore[arg-type]
    assert written(stopped)["web"].status.phase == PodPhase.FAILED  # type: ignore[union-attr]
    assert "exit code 7" in written(stopped)["web"].status.message  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("policy", "failures", "phase"),
    [("always", 0, W), ("onFailure", 1, W), ("always", 2, PodPhase.FAILED), ("never", 0, PodPhase.FAILED)],
)
def test_start_failures_are_counted_and_bounded(policy: str, failures: int, phase: PodPhase) -> None:
    broken = unit("waiting", start_failure=True)
    pod = make_pod(R, restart_policy=RestartPolicy(policy), start_failures=failures)
    marked = written(plan(make_case(pod, make_node(), agent=ready(broken))))["web"]
    assert marked is not None
    assert marked.status.reason == "StartFailed"
    result = plan(make_case(marked, make_node(), agent=ready(broken, stopped=True)))  # type: ignore[arg-type]
    after = written(result)["web"]
    assert after is not None
    assert (after.status.phase, after.status.start_failures) == (phase, failures + 1)
    assert "ErrImagePull: gone" in after.status.message
    (told,) = [notice for notice in result.notices if notice.kind == "Pod"]
    if phase == W:
        words = f"unit main: ErrImagePull: gone (start failure {failures + 1} of 3); trying again"
        assert (told.status, told.message) == ("pod-start-failed", words)
    else:
        assert told.status == "pod-failed"
    # A used node is never handed on.
    assert written(result)["n1"].status.phase == NodePhase.CLEANING  # type: ignore[union-attr]


@pytest.mark.parametrize(("failures", "phase"), [(1, W), (2, PodPhase.FAILED)])
def test_stopping_what_could_not_start_is_no_start(failures: int, phase: PodPhase) -> None:
    # Told by the agent after the stop: the broken unit and the one that ran have both left waiting.
    broken, other = unit("waiting", name="a", start_failure=True), unit("running", name="b")
    pod = make_pod(R, reason="StartFailed", start_failures=failures, unit_statuses=(broken, other))
    told = ready(unit("terminated", None, "a"), unit("terminated", 143, "b"), stopped=True)
    after = written(plan(make_case(pod, make_node(), agent=told)))["web"]
    assert after is not None
    assert (after.status.phase, after.status.start_failures) == (phase, failures + 1)
    assert after.status.unit_statuses == (broken, told.units[1])  # type: ignore[index, union-attr]


def test_start_failures_are_forgotten_once_all_units_run() -> None:
    pod = make_pod(R, start_failures=2, unit_statuses=(unit("waiting"),))
    after = written(plan(make_case(pod, make_node(), agent=ready(unit("running")))))["web"]
    assert after.status.start_failures == 0  # type: ignore[union-attr]


def test_a_refused_dispatch_is_a_start_failure() -> None:
    facts = AgentFacts(ready=True, units=(), refused="secret 'x' does not exist")
    after = written(plan(make_case(make_pod(D), make_node(), agent=facts)))["web"]
    assert after is not None
    assert (after.status.reason, after.status.message) == ("StartFailed", "secret 'x' does not exist")


class TestEnding:
    def test_a_waiting_pod_goes_at_once_and_wishes_its_node_away(self) -> None:
        result = plan(make_case(make_pod(deletion_timestamp=ago(1)), make_node(NodePhase.CREATING)))
        after = written(result)
        assert after["web"] is None
        assert after["n1"].spec.terminate  # type: ignore[union-attr]
        assert statuses(result) == ["pod-terminated", "pod-deleted"]

    @pytest.mark.parametrize("phase", [D, R])
    def test_a_bound_pod_is_stopped_first(self, phase: PodPhase) -> None:
        pod = make_pod(phase, deletion_timestamp=ago(1))
        result = plan(make_case(pod, make_node(), agent=ready(unit("running"))))
        assert (verbs(result), result.writes) == (["stop"], ())
        assert result.effects[0].grace_s == LIMITS.stop_grace_s

    @pytest.mark.parametrize("phase", [D, R])
    def test_once_stopped_it_is_removed_and_its_node_cleaned(self, phase: PodPhase) -> None:
        pod = make_pod(phase, deletion_timestamp=ago(1))
        result = plan(make_case(pod, make_node(), agent=ready(unit("terminated"), stopped=True)))
        after = written(result)
        assert after["web"] is None
        assert after["n1"].status.phase == NodePhase.CLEANING  # type: ignore[union-attr]

    def test_a_wish_without_deletion_ends_in_terminated(self) -> None:
        pod = make_pod(R, wish=PodPhase.TERMINATED)
        after = written(plan(make_case(pod, make_node(), agent=ready(stopped=True))))["web"]
        assert after.status.phase == PodPhase.TERMINATED  # type: ignore[union-attr]

    def test_an_unreachable_agent_proves_nothing(self) -> None:
        pod = make_pod(R, deletion_timestamp=ago(1))
        result = plan(make_case(pod, make_node(), agent=AgentFacts(silent_s=50)))
        assert (result.effects, result.writes) == ((), ())

    def test_after_a_while_its_node_is_ended_and_the_proof_awaited(self) -> None:
        pod = make_pod(R, deletion_timestamp=ago(1))
        result = plan(make_case(pod, make_node(), agent=AgentFacts(silent_s=LIMITS.unhealthy_after_s)))
        assert list(written(result)) == ["n1"]
        assert written(result)["n1"].status.phase == NodePhase.CLEANING  # type: ignore[union-attr]

    def test_a_terminated_instance_is_proof(self) -> None:
        pod = make_pod(R, deletion_timestamp=ago(1))
        assert written(plan(make_case(pod, make_node(NodePhase.TERMINATED)))) == {"web": None}


@pytest.mark.parametrize(("policy", "phase"), [("always", W), ("onFailure", W), ("never", PodPhase.FAILED)])
@pytest.mark.parametrize("node", [make_node(NodePhase.TERMINATED), None])
def test_a_lost_node_gives_the_pod_another_try_by_its_policy(policy: str, phase: PodPhase, node: object) -> None:
    pod = make_pod(R, restart_policy=RestartPolicy(policy))
    nodes = (node,) if node is not None else ()
    result = plan(make_case(pod, *nodes))  # type: ignore[arg-type]
    after = written(result)["web"]
    assert (after.status.phase, after.status.reason) == (phase, "NodeLost")  # type: ignore[union-attr]
    (told,) = [notice for notice in result.notices if notice.kind == "Pod"]
    if phase == W:
        words = "its instance is gone (node n1); it gets another node"
        assert (told.status, told.message) == ("pod-node-lost", words)
    else:
        assert told.status == "pod-failed"
    assert (after.status.bound_node_name == "") == (phase == W)  # type: ignore[union-attr]


class TestTerminal:
    def test_it_is_kept_for_a_while(self) -> None:
        pod = make_pod(PodPhase.SUCCEEDED, last_phase_change=ago(100))
        result = plan(make_case(pod, make_node(NodePhase.TERMINATING)))
        assert result.writes == ()
        assert result.wake_s == pytest.approx(80)

    def test_then_deleted_with_an_event(self) -> None:
        pod = make_pod(PodPhase.FAILED, last_phase_change=ago(181))
        result = plan(make_case(pod))
        assert written(result) == {"web": None}
        assert statuses(result) == ["pod-deleted"]

    def test_a_parent_keeps_it(self) -> None:
        pod = make_pod(PodPhase.FAILED, last_phase_change=ago(9999), owner_uid="rs")
        assert plan(make_case(pod)).writes == ()

    def test_a_user_deletes_it_at_once(self) -> None:
        pod = make_pod(PodPhase.SUCCEEDED, deletion_timestamp=ago(0))
        assert written(plan(make_case(pod)))["web"] is None


def test_a_rejected_launch_is_told_and_not_repeated_at_once() -> None:
    node = make_node(NodePhase.TERMINATED, reason="LaunchRejected", message="UnauthorizedOperation: no", instance_id="")
    result = plan(make_case(make_pod(), node))
    assert list(written(result)) == ["web"]
    assert written(result)["web"].status.message == "UnauthorizedOperation: no"  # type: ignore[union-attr]


def test_a_failed_launch_for_capacity_is_tried_again_elsewhere_at_once() -> None:
    node = make_node(NodePhase.TERMINATED, reason="InsufficientInstanceCapacity", instance_id="")
    assert "fresh" in written(plan(make_case(make_pod(), node)))
