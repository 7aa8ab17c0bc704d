"""Plans one pass of a shard: each case by itself, and the instance types of all waiting pods in one call."""

from milpa_ray.api.pod import Pod
from milpa_ray.planner.choose import Choice, Refusal, choose
from milpa_ray.planner.nodes import new_node, plan_nodes
from milpa_ray.planner.pods import plan_pod
from milpa_ray.planner.snapshot import CasePlan, Draft, Snapshot

LAUNCHING = "Launching"
"""Reason of a Waiting pod whose node is being made."""
REFUSAL_RETRY_S = 30.0
"""A pod that no offer fits is looked at again after this long: capacity comes back, settings change."""


def plan_shard(snapshot: Snapshot) -> list[CasePlan]:
    """Plans all cases of the snapshot, in their order."""
    drafts = [Draft(case, snapshot.now, snapshot.limits) for case in snapshot.cases]
    waiting = [draft for draft in drafts if plan_pod(draft)]
    pods = [draft.pod for draft in waiting if draft.pod is not None]
    for draft, pod, answer in zip(waiting, pods, choose(pods, snapshot.offers), strict=True):
        _place(draft, pod, answer)
    for draft in drafts:
        plan_nodes(draft)
    return [draft.finish() for draft in drafts]


def _place(draft: Draft, pod: Pod, answer: Choice | Refusal) -> None:
    if isinstance(answer, Refusal):
        draft.wake(REFUSAL_RETRY_S)
        if (pod.status.reason, pod.status.message) != (answer.reason, answer.message):
            draft.set_pod(reason=answer.reason, message=answer.message)
            draft.note(pod, "pod-unschedulable", answer.message)
        return
    node = new_node(draft.case, pod, answer, draft)
    draft.nodes[node.name] = node
    draft.node_paths[node.name] = [node.status.phase]
    # The pod is written, too, so that a commit of ours that arrives late or twice cannot make a second node for it.
    # Why the last start failed matters more to its user than what it waits for now.
    told = pod.status.message if pod.status.start_failures else f"{answer.instance_type} in {answer.zone}"
    draft.set_pod(reason=LAUNCHING, message=told)
    draft.note(node, "node-created", f"{answer.instance_type} in {answer.zone} for pod {pod.name}")
