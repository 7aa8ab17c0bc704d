"""The node's life, by what its pod needs and what its agent tells."""

import pytest

from milpa_ray.api.node import NodePhase
from milpa_ray.api.pod import PodPhase
from milpa_ray.planner.snapshot import AgentFacts, CasePlan
from tests.planner.factories import (
    EMPTY_AGENT,
    LIMITS,
    ago,
    make_case,
    make_node,
    make_pod,
    ready,
    unit,
    written,
)
from tests.planner.test_pods import plan, verbs

N = NodePhase


def phase_of(result: CasePlan, name: str = "n1") -> NodePhase | PodPhase | None:
    obj = written(result).get(name)
    return obj.status.phase if obj is not None else None


def test_a_booted_agent_makes_its_node_available() -> None:
    result = plan(make_case(make_pod(), make_node(N.CREATED), agent=EMPTY_AGENT))
    assert phase_of(result) == N.AVAILABLE
    assert [n.status for n in result.notices] == ["node-running"]


def test_an_enrolled_agent_is_recorded_as_such() -> None:
    facts = AgentFacts(ready=True, units=(), enrolled=True)
    after = written(plan(make_case(make_pod(), make_node(N.CREATED), agent=facts)))["n1"]
    assert after.status.identity == "node"  # type: ignore[union-attr]


def test_a_boot_that_takes_too_long_is_given_up_and_replaced() -> None:
    late = make_node(N.CREATED, created=ago(LIMITS.boot_timeout_s + 1))
    result = plan(make_case(make_pod(), late))
    assert phase_of(result) == N.TERMINATING
    ending = written(result)["n1"]
    assert "fresh" in written(plan(make_case(make_pod(), ending)))  # type: ignore[arg-type]


def test_a_boot_in_time_is_looked_at_again_when_it_would_be_late() -> None:
    result = plan(make_case(make_pod(), make_node(N.CREATED, created=ago(100))))
    assert result.writes == ()
    assert result.wake_s == pytest.approx(LIMITS.boot_timeout_s - 100)


@pytest.mark.parametrize(
    ("phase", "after"),
    [(N.CREATED, N.TERMINATING), (N.AVAILABLE, N.TERMINATING), (N.CLAIMED, N.CLEANING)],
)
def test_a_node_that_nobody_needs_is_ended(phase: NodePhase, after: NodePhase) -> None:
    assert phase_of(plan(make_case(None, make_node(phase)))) == after
    other = make_pod(uid="u2")
    assert phase_of(plan(make_case(other, make_node(phase)))) == after


def test_a_node_in_creation_is_only_wished_away() -> None:
    after = written(plan(make_case(None, make_node(N.CREATING))))["n1"]
    assert after is not None
    assert after.status.phase == N.CREATING
    assert after.spec.terminate  # type: ignore[union-attr]
    assert plan(make_case(None, make_node(N.CREATING, terminate=True))).writes == ()


def test_a_user_may_end_a_node_under_a_running_pod() -> None:
    node = make_node(N.CLAIMED, terminate=True)
    pod = make_pod(PodPhase.RUNNING, unit_statuses=(unit("running"),))
    assert verbs(plan(make_case(pod, node, agent=ready(unit("running"))))) == ["stop"]
    after = written(plan(make_case(pod, node, agent=ready(unit("terminated"), stopped=True))))
    assert after["web"].status.phase == PodPhase.WAITING  # type: ignore[union-attr]
    assert after["n1"].status.phase == N.CLEANING  # type: ignore[union-attr]


def test_a_silent_agent_fails_nothing_for_a_long_while() -> None:
    pod = make_pod(PodPhase.RUNNING)
    silent = AgentFacts(silent_s=LIMITS.unreachable_terminate_s - 1)
    assert plan(make_case(pod, make_node(), agent=silent)).writes == ()
    gone = AgentFacts(silent_s=LIMITS.unreachable_terminate_s)
    result = plan(make_case(pod, make_node(), agent=gone))
    # The pod keeps its phase until the cloud proves that the instance is gone.
    assert list(written(result)) == ["n1"]
    assert phase_of(result) == N.CLEANING


class TestCleaning:
    def test_its_logs_are_saved_first(self) -> None:
        assert verbs(plan(make_case(None, make_node(N.CLEANING), agent=EMPTY_AGENT))) == ["clean"]

    def test_then_it_is_terminated(self) -> None:
        facts = AgentFacts(ready=True, units=(), cleaned=True)
        assert phase_of(plan(make_case(None, make_node(N.CLEANING), agent=facts))) == N.TERMINATING

    def test_logs_that_do_not_come_are_given_up(self) -> None:
        late = make_node(N.CLEANING, since=ago(LIMITS.call_timeout_s * 4))
        assert phase_of(plan(make_case(None, late, agent=EMPTY_AGENT))) == N.TERMINATING

    def test_an_unreachable_node_is_not_asked(self) -> None:
        assert phase_of(plan(make_case(None, make_node(N.CLEANING, reason="Unreachable")))) == N.TERMINATING


class TestTerminated:
    def test_it_is_shown_for_a_while(self) -> None:
        result = plan(make_case(None, make_node(N.TERMINATED)))
        assert result.writes == ()
        assert result.wake_s == pytest.approx(20)

    def test_then_purged(self) -> None:
        result = plan(make_case(None, make_node(N.TERMINATED, since=ago(31))))
        assert written(result) == {"n1": None}
        assert [n.status for n in result.notices] == ["node-purged"]


def test_of_two_nodes_for_one_waiting_pod_the_one_behind_is_ended() -> None:
    ahead, behind = make_node(N.CREATED, "ahead"), make_node(N.CREATING, "behind")
    result = plan(make_case(make_pod(), behind, ahead))
    assert written(result)["behind"].spec.terminate  # type: ignore[union-attr]
    assert "ahead" not in written(result)
