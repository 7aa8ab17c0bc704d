"""What a node needs next, by its phase and by what its pod needs of it. Runs after the pod of the case is planned.

Creating and Terminating nodes belong to the coordinator, which alone speaks to the cloud; here they are only wished
away (``spec.terminate``) when nobody needs them.
"""

from milpa_ray.api.meta import ObjectMeta
from milpa_ray.api.node import Node, NodePhase, NodeSpec, NodeStatus
from milpa_ray.api.phases import POD_TERMINAL
from milpa_ray.api.pod import PlacementSpec, Pod
from milpa_ray.planner.choose import Choice
from milpa_ray.planner.interruption import goes_on, interrupted
from milpa_ray.planner.pods import live_node
from milpa_ray.planner.snapshot import Case, Draft

UNREACHABLE = "Unreachable"
CLEAN_TIMEOUT_CALLS = 4
"""A node's clean-up may take so many call time-outs; then the logs that are not saved are given up."""


def new_node(case: Case, pod: Pod, choice: Choice, draft: Draft) -> Node:
    """The record of a node for ``pod``, complete: nothing is left to choose for the launch."""
    return Node(
        metadata=ObjectMeta(
            name=case.fresh_id,
            uid=case.fresh_id,
            creation_timestamp=draft.now,
            generation=1,
        ),
        spec=NodeSpec(
            instance_type=choice.instance_type,
            spot=choice.spot,
            cpu_credits=choice.credits,
            resources=pod.spec.resources,
            placement=PlacementSpec(availability_zone=choice.zone),
        ),
        status=NodeStatus(
            last_phase_change=draft.now,
            bound_pod_name=pod.name,
            pod_uid=pod.uid,
            price_usd_hour=choice.price,
        ),
    )


def plan_nodes(draft: Draft) -> None:
    """Plans all nodes of the case."""
    for name in list(draft.nodes):
        node = draft.nodes[name]
        match node.status.phase:
            case NodePhase.CREATING:
                _creating(draft, node)
            case NodePhase.CREATED:
                _created(draft, node)
            case NodePhase.AVAILABLE:
                _available(draft, node)
            case NodePhase.CLAIMED:
                _claimed(draft, node)
            case NodePhase.CLEANING:
                _cleaning(draft, node)
            case NodePhase.TERMINATED:
                _terminated(draft, node)
            case _:
                pass


def needed(draft: Draft, node: Node) -> bool:
    """Whether the case's pod waits for, runs on, or will go on on this node."""
    pod = draft.pod
    if pod is None or pod.uid != node.status.pod_uid or pod.status.phase in POD_TERMINAL or node.spec.terminate:
        return False
    if pod.status.bound_node_name and not goes_on(draft, pod):
        return pod.status.bound_node_name == node.name
    chosen = live_node(draft, pod)
    return chosen is None or chosen.name == node.name


def _age_s(draft: Draft, node: Node) -> float:
    since = node.status.last_phase_change or node.metadata.creation_timestamp or draft.now
    return (draft.now - since).total_seconds()


def _creating(draft: Draft, node: Node) -> None:
    if not needed(draft, node) and not node.spec.terminate:
        draft.replace_node(node.model_copy(update={"spec": node.spec.model_copy(update={"terminate": True})}))


def _boot_left_s(draft: Draft, node: Node) -> float:
    made = node.metadata.creation_timestamp or draft.now
    return draft.limits.boot_timeout_s - (draft.now - made).total_seconds()


def _created(draft: Draft, node: Node) -> None:
    if not needed(draft, node):
        draft.set_node(node.name, NodePhase.TERMINATING, reason="NotNeeded")
        return
    facts = draft.case.agent(node.name)
    if facts.ready and facts.units is not None:
        changes: dict[str, object] = {"identity": "node"} if facts.enrolled else {}
        draft.set_node(node.name, NodePhase.AVAILABLE, **changes)
        draft.note(node, "node-running", f"instance {node.status.instance_id} is up")
        return
    left = _boot_left_s(draft, node)
    if left <= 0:
        message = f"its agent did not answer within {draft.limits.boot_timeout_s:.0f} s of creation"
        draft.set_node(node.name, NodePhase.TERMINATING, reason="BootTimeout", message=message)
    else:
        draft.wake(left)


def _available(draft: Draft, node: Node) -> None:
    if not needed(draft, node):
        draft.set_node(node.name, NodePhase.TERMINATING, reason="NotNeeded")


def _claimed(draft: Draft, node: Node) -> None:
    if not _holds(draft, node):
        draft.set_node(node.name, NodePhase.CLEANING, reason="Released")
        draft.note(node, "node-cleaning")
        return
    facts = draft.case.agent(node.name)
    if facts.enrolled and node.status.identity != "node":
        draft.set_node(node.name, identity="node")
    pod = draft.pod
    ending = node.spec.terminate or (pod is not None and pod.metadata.deletion_timestamp is not None)
    patience = draft.limits.unhealthy_after_s if ending else draft.limits.unreachable_terminate_s
    if facts.silent_s >= patience:
        message = f"its agent has been silent for {facts.silent_s:.0f} s"
        draft.set_node(node.name, NodePhase.CLEANING, reason=UNREACHABLE, message=message)
        draft.note(node, "node-cleaning", message)
    elif node.spec.terminate and pod is not None and not interrupted(node):
        draft.effect("stop", node.name, pod.uid, draft.limits.stop_grace_s)


def _holds(draft: Draft, node: Node) -> bool:
    """Whether the pod is still bound to this claimed node (however the node is wished away)."""
    pod = draft.pod
    return (
        pod is not None
        and pod.uid == node.status.pod_uid
        and pod.status.phase not in POD_TERMINAL
        and pod.status.bound_node_name == node.name
    )


def _cleaning(draft: Draft, node: Node) -> None:
    facts = draft.case.agent(node.name)
    left = draft.limits.call_timeout_s * CLEAN_TIMEOUT_CALLS - _age_s(draft, node)
    if facts.cleaned or left <= 0 or node.status.reason == UNREACHABLE:
        draft.set_node(node.name, NodePhase.TERMINATING)
    else:
        draft.effect("clean", node.name, node.status.pod_uid)
        draft.wake(left)


def _terminated(draft: Draft, node: Node) -> None:
    pod = draft.pod
    if pod is not None and pod.status.bound_node_name == node.name and pod.status.phase not in POD_TERMINAL:
        return  # The pod's next phase needs this proof; it is planned before its node, in the same pass.
    left = draft.limits.terminated_node_kept_s - _age_s(draft, node)
    if left <= 0:
        draft.note(node, "node-purged")
        draft.remove_node(node.name)
    else:
        draft.wake(left)
