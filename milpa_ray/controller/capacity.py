"""The memory of launches that failed for lack of capacity: records that expire with their lease.

The coordinator writes them with the failure, and removes one early when an instance of its kind has ended; every shard
reads them, so that the next choice avoids what is full.
"""

import json

from milpa_ray.api.node import Node
from milpa_ray.errors import CapacityScope
from milpa_ray.keys import Keys
from milpa_ray.ports import LaunchCall
from milpa_ray.store.port import Put

Full = tuple[bool, str, str]
"""Spot, instance type, zone."""


def capacity_put(keys: Keys, call: LaunchCall, scope: CapacityScope, lease: int) -> Put:
    """The record that this launch has just failed for lack of capacity, which reaches as far as ``scope``."""
    full: Full = (call.spot, call.instance_type, call.zone)
    return Put(capacity_key(keys, full), json.dumps(full).encode(), lease)


def capacity_key(keys: Keys, full: Full) -> str:
    """Where it is recorded."""
    spot, instance_type, zone = full
    return keys.prefix("capacity") + f"{'spot' if spot else 'on-demand'}.{instance_type}.{zone}"


def given_back(node: Node) -> Full:
    """What there is room for again once the node's instance has ended."""
    return node.spec.spot, node.spec.instance_type, node.spec.placement.availability_zone


def decode_capacity(_key: str, value: bytes) -> Full:
    """Raises ValueError for a record that is not ours."""
    spot, instance_type, zone = json.loads(value)
    return bool(spot), str(instance_type), str(zone)
