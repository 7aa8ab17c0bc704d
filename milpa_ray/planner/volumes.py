"""Root volumes: how large a node's must be for its pod, and what follows when it is not. Works on a ``Draft``.

A node that is made for a pod is launched with enough. One that was made before it (a standby node) has the default
size: its record then asks for more, the coordinator has the cloud grow it, and only then is the pod dispatched.
"""

from milpa_ray.api import quantity
from milpa_ray.api.node import Node, NodePhase
from milpa_ray.api.pod import Pod
from milpa_ray.planner.snapshot import Draft

GIB = 1 << 30
VOLUME_NOT_GROWN = "VolumeNotGrown"
"""Reason of a node whose root volume the cloud refuses to grow, set by the coordinator."""


def gib(size: str) -> int:
    """A quantity of bytes in GiB, rounded up; 0 for empty text.

    Raises:
        QuantityError: no quantity, or negative.
    """
    return -(-quantity.to_bytes(size) // GIB)


def room_for(draft: Draft, pod: Pod, node: Node) -> bool:
    """Whether the pod may be dispatched to the node; else the node's record asks for a larger root volume."""
    asked = pod.spec.resources.volume_size
    if gib(asked) <= node.status.volume_gib:
        return True
    if gib(node.spec.resources.volume_size) < gib(asked):
        resources = node.spec.resources.model_copy(update={"volume_size": asked})
        draft.replace_node(node.model_copy(update={"spec": node.spec.model_copy(update={"resources": resources})}))
    return False


def growth_wanted(node: Node) -> int:
    """GiB that the node's root volume is to grow to; 0 when it is large enough, or can't grow."""
    if node.status.phase != NodePhase.CLAIMED or node.status.reason == VOLUME_NOT_GROWN:
        return 0
    asked = gib(node.spec.resources.volume_size)
    return asked if asked > node.status.volume_gib else 0
