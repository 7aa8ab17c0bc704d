"""What a pod needs next, by its phase. Works on a ``Draft``; never asks for an effect that no stored record wants.

The order is always: record the intent (phase, reason or wish), act on the record, record the outcome. So a pod that
must end keeps its phase, with ``status.reason`` telling why, until its agent has confirmed the stop or the cloud has
ended the instance; only then does it go to its next phase. A pod never runs twice because it returns to Waiting only
on such a proof.
"""

from typing import Any

from milpa_ray.api.node import Node, NodePhase
from milpa_ray.api.phases import POD_TERMINAL
from milpa_ray.api.pod import Pod, PodPhase, RestartPolicy, UnitStatus
from milpa_ray.planner.interruption import SPOT_INTERRUPTED, goes_on, interrupted, must_stop, stop_left_s
from milpa_ray.planner.snapshot import AgentFacts, Draft
from milpa_ray.planner.volumes import VOLUME_NOT_GROWN, room_for

UNBOUND: dict[str, Any] = {
    "bound_node_name": "",
    "bound_node_uid": "",
    "bound_instance_id": "",
    "addresses": (),
    "dispatched_generation": 0,
    "ready_time": None,
}
START_FAILED = "StartFailed"
UNIT_FAILED = "UnitFailed"
NODE_LOST = "NodeLost"
LAUNCH_REJECTED = "LaunchRejected"
"""Reason of a node that the cloud refused to launch, set by the coordinator."""
ENDING_REASONS = frozenset({START_FAILED, UNIT_FAILED, SPOT_INTERRUPTED})
"""Reasons that, stored on a pod that is Dispatching or Running, say that it is being stopped there for good."""

TOWARDS_CLAIMED = (NodePhase.CREATING, NodePhase.CREATED, NodePhase.AVAILABLE, NodePhase.CLAIMED)
LIVE_NODE = frozenset(TOWARDS_CLAIMED)


def ends(pod: Pod) -> bool:
    """Whether the user wants the pod to end."""
    return pod.metadata.deletion_timestamp is not None or pod.spec.phase == PodPhase.TERMINATED


def live_node(draft: Draft, pod: Pod) -> Node | None:
    """The node made for this pod that can still serve it: of several the one that has come furthest.

    The transaction that makes a node writes its pod, so there is one; should there ever be more, the others are
    surplus, and the pod is not stuck.
    """
    able = [
        node
        for node in draft.nodes.values()
        if node.status.pod_uid == pod.uid and node.status.phase in LIVE_NODE and not node.spec.terminate
    ]
    return max(able, key=lambda node: (TOWARDS_CLAIMED.index(node.status.phase), node.name), default=None)


def plan_pod(draft: Draft) -> bool:
    """Plans the draft's pod. True: it waits for a node, or must leave its own, and none is being made, so one should be
    chosen."""
    pod = draft.pod
    if pod is None:
        return False
    if pod.status.phase in POD_TERMINAL:
        _terminal(draft, pod)
    elif pod.status.phase == PodPhase.WAITING:
        return _waiting(draft, pod)
    else:
        _bound(draft, pod)
        return _needs_another(draft)
    return False


def _needs_another(draft: Draft) -> bool:
    """Whether the pod must leave its node, and no other is being made for it."""
    pod = draft.pod
    if pod is None or not goes_on(draft, pod) or pod.status.reason == START_FAILED:
        return False
    return live_node(draft, pod) is None and _rejection(draft, pod) is None


def _terminal(draft: Draft, pod: Pod) -> None:
    """Kept for a while so that users see how it ended, then deleted."""
    since = pod.status.last_phase_change or pod.metadata.creation_timestamp or draft.now
    age = (draft.now - since).total_seconds()
    if pod.metadata.deletion_timestamp is not None:
        _delete(draft, pod)
    elif not pod.metadata.owner_uid:
        if age >= draft.limits.terminal_pod_kept_s:
            _delete(draft, pod, f"kept {draft.limits.terminal_pod_kept_s:.0f} s after it ended")
        else:
            draft.wake(draft.limits.terminal_pod_kept_s - age)


def _delete(draft: Draft, pod: Pod, why: str = "") -> None:
    draft.note(pod, "pod-deleted", why)
    draft.remove_pod()


def _waiting(draft: Draft, pod: Pod) -> bool:
    if ends(pod):
        _ended(draft, pod)
        return False
    node = live_node(draft, pod)
    if node is None:
        return not _rejected(draft, pod)
    if node.status.phase == NodePhase.AVAILABLE:
        _bind(draft, pod, node)
    return False


def _rejected(draft: Draft, pod: Pod) -> bool:
    """Whether the cloud has just refused a launch for this pod for good. The next try waits until that node's record
    is purged, so that a wrong setting does not make a storm of launches."""
    node = _rejection(draft, pod)
    if node is not None and (pod.status.reason, pod.status.message) != (LAUNCH_REJECTED, node.status.message):
        draft.set_pod(reason=LAUNCH_REJECTED, message=node.status.message)
        draft.note(pod, "pod-unschedulable", node.status.message)
    return node is not None


def _rejection(draft: Draft, pod: Pod) -> Node | None:
    """The node whose launch for this pod was refused."""
    return next(
        (n for n in draft.nodes.values() if n.status.pod_uid == pod.uid and n.status.reason == LAUNCH_REJECTED), None
    )


def _bind(draft: Draft, pod: Pod, node: Node) -> None:
    draft.set_node(node.name, NodePhase.CLAIMED)
    draft.set_pod(
        PodPhase.DISPATCHING,
        bound_node_name=node.name,
        bound_node_uid=node.uid,
        bound_instance_id=node.status.instance_id,
        addresses=node.status.addresses,
        unit_statuses=(),
        init_unit_statuses=(),
        reason="",
        message="",
    )
    draft.note(node, "node-claimed", f"claimed by pod {pod.name}")


def _bound(draft: Draft, pod: Pod) -> None:
    """Dispatching or Running."""
    node = draft.nodes.get(pod.status.bound_node_name)
    if node is None or node.status.phase == NodePhase.TERMINATED:
        _node_gone(draft, pod, node)
        return
    facts = draft.case.agent(node.name)
    if facts.stopped and facts.pod_uid == pod.uid:
        _keep_statuses(draft, pod, facts)
        _stopped(draft, draft.pod or pod)
        return
    if ends(pod) or pod.status.reason in ENDING_REASONS:
        grace_s = 0.0 if pod.status.reason == START_FAILED else draft.limits.stop_grace_s
        draft.effect("stop", node.name, pod.uid, min(grace_s, stop_left_s(draft, node)))
        return
    if interrupted(node) and must_stop(draft, pod, node, live_node(draft, pod)):
        draft.set_pod(reason=SPOT_INTERRUPTED)
        return
    if node.status.addresses != pod.status.addresses:
        draft.set_pod(addresses=node.status.addresses)
    if facts.refused:
        draft.set_pod(reason=START_FAILED, message=facts.refused)
        return
    if facts.ready and facts.units is not None and facts.pod_uid == pod.uid:
        _observe(draft, facts)
    elif facts.ready and facts.units is not None and not facts.pod_uid:
        # The agent answers and holds no pod: it has never had this one, or lost its disk with it.
        if room_for(draft, pod, node):
            draft.effect("dispatch", node.name, pod.uid)
        elif node.status.reason == VOLUME_NOT_GROWN:
            draft.set_pod(reason=START_FAILED, message=node.status.message)


def _observe(draft: Draft, facts: AgentFacts) -> None:
    """Takes over what the agent reports of this pod and decides whether it has ended."""
    pod = draft.pod
    assert pod is not None
    if facts.generation > pod.status.dispatched_generation:
        draft.set_pod(dispatched_generation=facts.generation)
    if pod.status.phase == PodPhase.DISPATCHING:
        draft.set_pod(PodPhase.RUNNING)
        draft.note(pod, "pod-running", f"{pod.name} running on node {pod.status.bound_node_name}")
    if facts.generation < pod.metadata.generation and not interrupted(draft.nodes.get(pod.status.bound_node_name)):
        draft.effect("dispatch", pod.status.bound_node_name, pod.uid)
    _keep_statuses(draft, pod, facts)
    _judge(draft)


def _keep_statuses(draft: Draft, pod: Pod, facts: AgentFacts) -> None:
    """Takes over what the agent tells of the units. Those of a stopped pod that could not be started keep saying why;
    and such a stop makes them leave waiting, but it is no start."""
    status = (draft.pod or pod).status
    units, inits = facts.units or (), facts.init_units
    if not units and not inits:
        return  # Its agent has nothing to tell of it (a pod stopped before it came there); what is known stays.
    if facts.stopped:
        units, inits = _with_reasons(units, status.unit_statuses), _with_reasons(inits, status.init_unit_statuses)
    if units == status.unit_statuses and inits == status.init_unit_statuses:
        return
    changes: dict[str, Any] = {"unit_statuses": units, "init_unit_statuses": inits}
    if status.ready_time is None and units and all(u.state.running for u in units):
        changes["ready_time"] = draft.now
    if status.start_failures and units and not facts.stopped and not any(u.state.waiting for u in (*units, *inits)):
        changes["start_failures"] = 0
    draft.set_pod(**changes)


def _with_reasons(told: tuple[UnitStatus, ...], known: tuple[UnitStatus, ...]) -> tuple[UnitStatus, ...]:
    """``told``, but what is ``known`` of units that could not be started."""
    broken = {u.name: u for u in known if u.state.waiting and u.state.waiting.start_failure}
    return tuple(broken.get(u.name, u) for u in told)


def _judge(draft: Draft) -> None:
    """Ends a Running pod by its units' states: all ended, one that cannot start, or one failed for good."""
    pod = draft.pod
    assert pod is not None
    units, inits = pod.status.unit_statuses, pod.status.init_unit_statuses
    broken = next((u for u in (*inits, *units) if u.state.waiting and u.state.waiting.start_failure), None)
    if broken is not None:
        reason = broken.state.waiting.reason if broken.state.waiting else ""
        draft.set_pod(reason=START_FAILED, message=f"unit {broken.name}: {reason}")
        return
    policy = pod.spec.restart_policy
    if policy == RestartPolicy.ALWAYS:
        return
    failed = next((u for u in (*inits, *units) if _failed(u)), None)
    if policy == RestartPolicy.NEVER and failed is not None:
        if all(u.state.terminated for u in (*inits, *units)):
            _fail(draft, pod, UNIT_FAILED, _exit_text(failed))
        else:
            draft.set_pod(reason=UNIT_FAILED, message=_exit_text(failed))
    elif units and failed is None and all(u.state.terminated for u in units):
        draft.set_pod(PodPhase.SUCCEEDED, reason="", message="")
        draft.note(pod, "pod-succeeded")


def _failed(unit: UnitStatus) -> bool:
    return unit.state.terminated is not None and unit.state.terminated.exit_code != 0


def _exit_text(unit: UnitStatus) -> str:
    ended = unit.state.terminated
    code = "unknown" if ended is None or ended.exit_code is None else str(ended.exit_code)
    why = f" ({ended.reason})" if ended and ended.reason else ""
    return f"unit {unit.name} ended with exit code {code}{why}"


def _fail(draft: Draft, pod: Pod, reason: str, message: str) -> None:
    draft.set_pod(PodPhase.FAILED, reason=reason, message=message)
    draft.note(pod, "pod-failed", message)


def _stopped(draft: Draft, pod: Pod) -> None:
    """The agent has confirmed that nothing of the pod runs any more and never will there."""
    if ends(pod):
        _ended(draft, pod)
    elif pod.status.reason == UNIT_FAILED:
        _fail(draft, pod, UNIT_FAILED, pod.status.message)
    elif pod.status.reason == START_FAILED:
        _retry_start(draft, pod)
    elif pod.status.reason == SPOT_INTERRUPTED:
        _again(draft, pod, SPOT_INTERRUPTED, pod.status.message, event="")
    else:
        # Stopped by a request whose record is gone; the pod is still wanted, so it gets another node.
        _again(draft, pod, NODE_LOST, "it was stopped on its node")


def _retry_start(draft: Draft, pod: Pod) -> None:
    failures = pod.status.start_failures + 1
    message = pod.status.message
    if pod.spec.restart_policy == RestartPolicy.NEVER or failures >= draft.limits.start_failures:
        draft.set_pod(start_failures=failures)
        _fail(draft, pod, START_FAILED, f"{message} (start failure {failures})")
    else:
        most = draft.limits.start_failures
        draft.note(pod, "pod-start-failed", f"{message} (start failure {failures} of {most}); trying again")
        draft.set_pod(
            PodPhase.WAITING, start_failures=failures, **UNBOUND, reason="", message=f"{message}; trying again"
        )


def _node_gone(draft: Draft, pod: Pod, node: Node | None) -> None:
    """The instance is proved to be gone, and with it all that ran there."""
    why = node.status.message if node is not None and node.status.message else "its instance is gone"
    if ends(pod):
        _ended(draft, pod)
    elif pod.status.reason == UNIT_FAILED:
        _fail(draft, pod, UNIT_FAILED, pod.status.message)
    elif pod.status.reason == START_FAILED:
        _retry_start(draft, pod)
    else:
        _again(draft, pod, SPOT_INTERRUPTED if interrupted(node) else NODE_LOST, why)


def _again(draft: Draft, pod: Pod, reason: str, message: str, event: str = "pod-node-lost") -> None:
    """Back to Waiting for another node, if the restart policy allows a second try. ``event`` empty: told before."""
    if pod.spec.restart_policy == RestartPolicy.NEVER:
        _fail(draft, pod, reason, message)
        return
    if event:
        draft.note(pod, event, f"{message} (node {pod.status.bound_node_name}); it gets another node")
    draft.set_pod(PodPhase.WAITING, **UNBOUND, reason=reason, message=message)


def _ended(draft: Draft, pod: Pod) -> None:
    """By the user's wish, and nothing of it runs."""
    draft.note(pod, "pod-terminated")
    if pod.metadata.deletion_timestamp is not None:
        _delete(draft, pod)
    else:
        draft.set_pod(PodPhase.TERMINATED, reason="", message="stopped by request")
