"""Which tags an instance gets once its node is claimed: what people look for in the cloud's console and bills."""

from collections.abc import Iterable, Mapping

from milpa_ray.api.node import Node, NodePhase
from milpa_ray.api.pod import Pod
from milpa_ray.planner.garbage import BATCH_TAG, CLUSTER_TAG, GONE, UUID_TAG
from milpa_ray.planner.snapshot import Versioned
from milpa_ray.ports import Instance

NAME_TAG = "Name"
"""What the console shows as the instance's name."""
NODE_TAG = "milpa-node"
POD_TAG = "milpa-pod"
"""Says that the labels are there, too: all tags of an instance are set in one call."""
OWN_TAGS = frozenset({CLUSTER_TAG, UUID_TAG, BATCH_TAG, NODE_TAG, POD_TAG})
"""No label of a pod may change these: the garbage collector goes by them."""


def instance_tags(node: Node, pod: Pod | None) -> dict[str, str]:
    """The tags of the node's instance besides those of its launch. ``pod`` is None when only the node is to be named.
    A label ``Name`` wins over ours."""
    labels = dict(pod.metadata.labels) if pod is not None else {}
    labels = {key: value for key, value in labels.items() if key not in OWN_TAGS}
    return {NAME_TAG: node.status.bound_pod_name, **labels, NODE_TAG: node.name, POD_TAG: node.status.bound_pod_name}


def unlabelled(nodes: Iterable[Versioned[Node]], instances: Mapping[str, Instance]) -> list[Versioned[Node]]:
    """Nodes that hold a pod and whose listed instance does not say so."""
    found = []
    for stored in nodes:
        instance = instances.get(stored.obj.status.instance_id)
        holds = stored.obj.status.phase == NodePhase.CLAIMED and stored.obj.status.bound_pod_name
        if holds and instance is not None and instance.state not in GONE and POD_TAG not in instance.tags:
            found.append(stored)
    return found
