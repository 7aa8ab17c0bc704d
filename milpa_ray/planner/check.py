"""Refuses a plan that would break an invariant, before anything of it is committed.

One pod per node, one live node per pod, no transition that the phase tables do not list, finite prices. A refused
case is a bug of the planner: it is logged and left alone, the others go on.
"""

import math
from itertools import pairwise

from milpa_ray.api.node import Node, NodePhase
from milpa_ray.api.phases import node_may, pod_may
from milpa_ray.api.pod import Pod, PodPhase
from milpa_ray.planner.pods import LIVE_NODE
from milpa_ray.planner.snapshot import Case, CasePlan, Write


def violations(case: Case, plan: CasePlan) -> list[str]:
    """What is wrong with the plan; empty when it may be committed."""
    found = [text for write in plan.writes for text in _path_violations(write)]
    keys = [write.key for write in plan.writes]
    if len(set(keys)) != len(keys):
        found.append("two writes of one key")
    after = {node.key: node.obj for node in case.nodes}
    pod = case.pod.obj if case.pod else None
    for write in plan.writes:
        if isinstance(write.obj, Node):
            after[write.key] = write.obj
        elif write.obj is None:
            after.pop(write.key, None)
        if case.pod is not None and write.key == case.pod.key:
            pod = write.obj if isinstance(write.obj, Pod) else None
    found += _binding_violations(pod, list(after.values()))
    return found


def _path_violations(write: Write) -> list[str]:
    found = []
    for before, after in pairwise(write.path):
        if isinstance(before, PodPhase) and isinstance(after, PodPhase):
            legal = pod_may(before, after)
        else:
            legal = isinstance(before, NodePhase) and isinstance(after, NodePhase) and node_may(before, after)
        if not legal:
            found.append(f"{write.key}: no transition {before} to {after}")
    if isinstance(write.obj, Node) and not (0 < write.obj.status.price_usd_hour < math.inf):
        found.append(f"{write.key}: price {write.obj.status.price_usd_hour}")
    if write.obj is not None and write.path and write.obj.status.phase != write.path[-1]:
        found.append(f"{write.key}: ends in {write.obj.status.phase}, its path in {write.path[-1]}")
    return found


def _binding_violations(pod: Pod | None, nodes: list[Node]) -> list[str]:
    claimed = [n for n in nodes if pod is not None and n.status.pod_uid == pod.uid and _serves(n)]
    found = []
    if len(claimed) > 1:
        found.append("two live nodes for one pod: " + ", ".join(n.name for n in claimed))
    if pod is not None and pod.status.phase in (PodPhase.DISPATCHING, PodPhase.RUNNING):
        bound = next((n for n in nodes if n.name == pod.status.bound_node_name), None)
        if bound is not None and bound.status.pod_uid != pod.uid:
            found.append(f"pod {pod.name} bound to node {bound.name}, which serves another")
    return found


def _serves(node: Node) -> bool:
    return node.status.phase in LIVE_NODE and not node.spec.terminate
