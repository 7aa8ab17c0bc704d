"""What follows when the cloud takes a spot instance back and has said when. Works on a ``Draft``.

The notice is recorded on the node first, with the wish to end it; in the same transaction the pod gets another node, so
that it boots while the pod still runs. The pod is stopped once that node is up, or when the notice leaves just time
enough for its grace, or at once if it has not begun to run. It leaves by the ordinary way: to Waiting, and from there
to its other node, only on the proof that nothing of it runs. A pod that is not restarted has no other node and runs as
long as it may.

Knows the store's records and the agents' words only; the memory that such capacity is scarce is the coordinator's.
"""

from milpa_ray.api.node import Node, NodePhase
from milpa_ray.api.pod import Pod, PodPhase, RestartPolicy
from milpa_ray.planner.snapshot import Draft

SPOT_INTERRUPTED = "SpotInterrupted"
"""Reason of a node whose instance the cloud takes back, and of a pod that is being stopped for it."""
NOTED_IN = frozenset({NodePhase.CREATED, NodePhase.AVAILABLE, NodePhase.CLAIMED})
"""Phases in which a notice changes something; later ones end the instance anyway."""


def interrupted(node: Node | None) -> bool:
    """Whether the cloud has said that it takes the node's instance back."""
    return node is not None and node.status.interruption_at is not None


def note_interruptions(draft: Draft) -> None:
    """Records what agents of spot nodes have told of interruptions. A node that holds no pod is ended at once."""
    for name, node in list(draft.nodes.items()):
        at = draft.case.agent(name).interruption_at
        if at is None or not node.spec.spot or interrupted(node) or node.status.phase not in NOTED_IN:
            continue
        message = f"the cloud takes its spot instance {node.status.instance_id} back at {at:%H:%M:%S} UTC"
        draft.note(node, "node-interrupted", message)
        ending = None if node.status.phase == NodePhase.CLAIMED else NodePhase.TERMINATING
        noted = draft.set_node(name, ending, interruption_at=at, reason=SPOT_INTERRUPTED, message=message)
        if ending is None:
            draft.replace_node(noted.model_copy(update={"spec": noted.spec.model_copy(update={"terminate": True})}))
        pod = draft.pod
        if pod is not None and pod.uid == node.status.pod_uid and pod.status.bound_node_name == name:
            draft.note(pod, "pod-spot-interrupted", f"{message} (node {name})")
            if not pod.status.reason:
                draft.set_pod(message=message)


def goes_on(draft: Draft, pod: Pod) -> bool:
    """Whether the pod, bound to an interrupted node, is to run on another one."""
    wished = pod.metadata.deletion_timestamp is None and pod.spec.phase == PodPhase.RUNNING
    return (
        wished
        and pod.status.phase in (PodPhase.DISPATCHING, PodPhase.RUNNING)
        and pod.spec.restart_policy != RestartPolicy.NEVER
        and interrupted(draft.nodes.get(pod.status.bound_node_name))
    )


def must_stop(draft: Draft, pod: Pod, node: Node, replacement: Node | None) -> bool:
    """Whether the pod has to be stopped on its interrupted node now; else looks again in time."""
    left_s = stop_left_s(draft, node) - draft.limits.stop_grace_s
    ready = replacement is not None and replacement.status.phase == NodePhase.AVAILABLE
    if ready or left_s <= 0 or pod.status.phase == PodPhase.DISPATCHING:
        return True
    draft.wake(left_s)
    return False


def stop_left_s(draft: Draft, node: Node) -> float:
    """Seconds that a stop on this node may take, its grace included: all that one may for a node that stays."""
    if node.status.interruption_at is None:
        return draft.limits.stop_grace_s
    left_s = (node.status.interruption_at - draft.now).total_seconds() - draft.limits.interruption_margin_s
    return max(left_s, 0.0)
