"""Whatever the records and the agents say, a plan breaks no invariant, and planning comes to rest."""

import dataclasses

from hypothesis import given, settings
from hypothesis import strategies as st

from milpa_ray.api.node import Node, NodePhase
from milpa_ray.api.phases import POD_TERMINAL
from milpa_ray.api.pod import Pod, PodPhase, RestartPolicy
from milpa_ray.planner.check import violations
from milpa_ray.planner.shard import plan_shard
from milpa_ray.planner.snapshot import AgentFacts, Case, Versioned
from tests.planner.factories import ago, make_case, make_node, make_pod, make_snapshot, unit

ages = st.sampled_from([0.0, 1.0, 20.0, 100.0, 200.0, 5000.0])
notices = st.sampled_from([None, None, ago(-110.0), ago(-20.0), ago(30.0)])
units = st.lists(
    st.builds(
        unit,
        st.sampled_from(["running", "terminated", "waiting"]),
        st.sampled_from([0, 1, None]),
        st.just("main"),
        start_failure=st.booleans(),
    ),
    max_size=2,
).map(tuple)


@st.composite
def pods(draw: st.DrawFn) -> Pod | None:
    if draw(st.booleans()) and draw(st.booleans()):
        return None
    return make_pod(
        draw(st.sampled_from(list(PodPhase))),
        uid=draw(st.sampled_from(["u1", "u2"])),
        deletion_timestamp=draw(st.sampled_from([None, ago(5)])),
        last_phase_change=ago(draw(ages)),
        restart_policy=draw(st.sampled_from(list(RestartPolicy))),
        wish=draw(st.sampled_from([PodPhase.RUNNING, PodPhase.RUNNING, PodPhase.TERMINATED])),
        reason=draw(st.sampled_from(["", "", "StartFailed", "UnitFailed", "NodeLost", "SpotInterrupted"])),
        start_failures=draw(st.integers(0, 3)),
        unit_statuses=draw(units),
        generation=draw(st.integers(1, 2)),
    )


@st.composite
def nodes(draw: st.DrawFn) -> Node:
    node = make_node(
        draw(st.sampled_from(list(NodePhase))),
        since=ago(draw(ages)),
        created=ago(draw(ages)),
        terminate=draw(st.booleans()) and draw(st.booleans()),
        interruption_at=draw(notices),
        reason=draw(st.sampled_from(["", "Unreachable", "LaunchRejected"])),
    )
    return node.model_copy(update={"spec": node.spec.model_copy(update={"spot": draw(st.booleans())})})


@st.composite
def agents(draw: st.DrawFn) -> AgentFacts:
    uid = draw(st.sampled_from(["", "u1", "u1", "u2"]))
    return AgentFacts(
        ready=draw(st.booleans()),
        silent_s=draw(st.sampled_from([0.0, 5.0, 95.0, 700.0])),
        enrolled=draw(st.booleans()),
        pod_uid=uid,
        generation=draw(st.integers(0, 2)) if uid else 0,
        stopped=draw(st.booleans()) if uid else False,
        units=draw(st.none() | units) if uid else draw(st.sampled_from([None, ()])),
        refused=draw(st.sampled_from(["", "", "no"])),
        cleaned=draw(st.booleans()),
        interruption_at=draw(notices),
    )


USED = {NodePhase.CLAIMED, NodePhase.CLEANING, NodePhase.TERMINATING, NodePhase.TERMINATED}


def possible(case: Case) -> bool:
    """Whether committed plans can lead here: a pod is bound to a claimed node of its own, and only then."""
    if case.pod is None or not case.nodes:
        return True
    pod, node = case.pod.obj, case.nodes[0].obj
    if pod.status.phase in (PodPhase.DISPATCHING, PodPhase.RUNNING):
        return pod.uid == node.status.pod_uid and node.status.phase in USED
    if pod.status.phase == PodPhase.WAITING:
        return pod.uid != node.status.pod_uid or node.status.phase != NodePhase.CLAIMED
    return True


cases = st.builds(
    lambda pod, found, agent: make_case(pod, *found, agent=agent),
    pods(),
    st.lists(nodes(), max_size=1),
    st.none() | agents(),
).filter(possible)


def applied(case: Case, step: int) -> tuple[Case, bool]:
    """The case after its plan was committed, and whether anything was written."""
    plan = plan_shard(make_snapshot(case))[0]
    assert violations(case, plan) == []
    pod = case.pod
    found = {node.key: node for node in case.nodes}
    for write in plan.writes:
        # Own commits are taken over as they were made, not as they would be read.
        assert write.obj is None or type(write.obj).from_json(write.obj.to_json()) == write.obj
        if pod is not None and write.key == pod.key:
            pod = Versioned(write.key, write.obj, step) if isinstance(write.obj, Pod) else None
        elif isinstance(write.obj, Node):
            found[write.key] = Versioned(write.key, write.obj, step)
        else:
            found.pop(write.key)
    fresh = f"fresh{step}"
    after = dataclasses.replace(
        case, pod=pod, nodes=tuple(found.values()), fresh_id=fresh, fresh_key=f"/o/0001/node/{fresh}"
    )
    return after, bool(plan.writes)


@given(cases)
@settings(max_examples=1500, deadline=None)
def test_every_plan_is_legal_and_planning_comes_to_rest(case: Case) -> None:
    # With nothing new from agents or the cloud, a case needs a few passes at most: no plan undoes another.
    for step in range(100, 112):
        case, wrote = applied(case, step)
        if not wrote:
            break
    else:
        raise AssertionError(f"still writing after 12 passes: {case}")


@given(cases)
@settings(max_examples=500, deadline=None)
def test_a_bound_pod_leaves_its_node_only_on_proof(case: Case) -> None:
    before = case.pod
    if before is None or before.obj.status.phase in POD_TERMINAL | {PodPhase.WAITING}:
        return
    after, _ = applied(case, 100)
    still = after.pod is not None and after.pod.obj.status.phase not in POD_TERMINAL
    if still and after.pod is not None and after.pod.obj.status.bound_node_name == "n1":
        return
    facts = case.agent("n1")
    node = next((n.obj for n in case.nodes if n.obj.name == "n1"), None)
    gone = node is None or node.status.phase == NodePhase.TERMINATED
    stopped = facts.stopped and facts.pod_uid == before.obj.uid
    all_ended = facts.pod_uid == before.obj.uid and all(
        u.state.running is None for u in (*facts.init_units, *(facts.units or ()))
    )
    assert gone or stopped or all_ended
