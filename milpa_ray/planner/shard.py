"""Plans one pass of a shard: each case by itself, and the instance types of all waiting pods in one call."""

import dataclasses
from collections.abc import Iterable

from milpa_ray.api.pod import Pod, PodPhase
from milpa_ray.planner.choose import Choice, Offers, choose
from milpa_ray.planner.interruption import interrupted, note_interruptions
from milpa_ray.planner.nodes import new_node, plan_nodes
from milpa_ray.planner.pods import plan_pod
from milpa_ray.planner.refusal import Refusal
from milpa_ray.planner.snapshot import CasePlan, Draft, Snapshot

LAUNCHING = "Launching"
"""Reason of a Waiting pod whose node is being made."""
REFUSAL_RETRY_S = 30.0
"""A pod that no offer fits is looked at again after this long: capacity comes back, settings change."""


def plan_shard(snapshot: Snapshot) -> list[CasePlan]:
    """Plans all cases of the snapshot, in their order."""
    drafts = [Draft(case, snapshot.now, snapshot.limits) for case in snapshot.cases]
    for draft in drafts:
        note_interruptions(draft)
    waiting = [draft for draft in drafts if plan_pod(draft)]
    pods = [draft.pod for draft in waiting if draft.pod is not None]
    for draft, pod, answer in zip(waiting, pods, choose(pods, _offers(snapshot, drafts)), strict=True):
        _place(draft, pod, answer)
    for draft in drafts:
        plan_nodes(draft)
    return [draft.finish() for draft in drafts]


def _offers(snapshot: Snapshot, drafts: Iterable[Draft]) -> Offers:
    """The offers under the limits of now, without what the cloud is just taking back: its memory of that comes later,
    by the coordinator."""
    going = {
        (node.spec.spot, node.spec.instance_type, node.spec.placement.availability_zone)
        for draft in drafts
        for node in draft.nodes.values()
        if interrupted(node)
    }
    offers, limits = snapshot.offers, snapshot.limits
    return dataclasses.replace(
        offers,
        full=offers.full.with_types(going) if going else offers.full,
        capacity_tries=limits.capacity_tries,
        capacity_memory_s=limits.capacity_memory_s,
    )


def _place(draft: Draft, pod: Pod, answer: Choice | Refusal) -> None:
    """Makes the node that was chosen for a pod that waits, or that must leave its own, or tells why there is none."""
    waits = pod.status.phase == PodPhase.WAITING
    leaving = "" if waits else f"{draft.nodes[pod.status.bound_node_name].status.message}; "
    if isinstance(answer, Refusal):
        draft.wake(REFUSAL_RETRY_S)
        reason = answer.reason if waits else pod.status.reason
        _tell(draft, pod, reason, leaving + answer.message, answer.message)
        return
    node = new_node(draft.case, pod, answer, draft)
    draft.nodes[node.name] = node
    draft.node_paths[node.name] = [node.status.phase]
    # The pod is written, too, so that a commit of ours that arrives late or twice cannot make a second node for it.
    # Why the last start failed matters more to its user than what it waits for now.
    if waits:
        told = pod.status.message if pod.status.start_failures else f"{answer.instance_type} in {answer.zone}"
        draft.set_pod(reason=LAUNCHING, message=told, spot_failure=answer.spot_failed)
    else:
        message = f"{leaving}its next node is a {answer.instance_type} in {answer.zone}"
        draft.set_pod(message=message, spot_failure=answer.spot_failed)
    if answer.no_spot is not None:
        price = f"at ${answer.price:.10g} an hour"
        draft.note(pod, "start-spot-failed", f"{answer.no_spot.message}; on demand instead, {price}")
    draft.note(node, "node-created", f"{answer.instance_type} in {answer.zone} for pod {pod.name}")


def _tell(draft: Draft, pod: Pod, reason: str, message: str, event: str) -> None:
    if (pod.status.reason, pod.status.message) != (reason, message):
        draft.set_pod(reason=reason, message=message)
        draft.note(pod, "pod-unschedulable", event)
