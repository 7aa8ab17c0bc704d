"""The memory of what the cloud has no room for: records that expire with their lease.

The coordinator writes them when a launch has failed for lack of capacity, and when the cloud takes a spot instance
back; it removes one early when an instance of its kind has ended. Every shard reads them, so that the next choice
avoids what is full.
"""

import json
from dataclasses import asdict

from milpa_ray.api.node import Node
from milpa_ray.errors import CapacityScope
from milpa_ray.keys import Keys
from milpa_ray.planner.fullness import FullRecord
from milpa_ray.planner.interruption import interrupted
from milpa_ray.ports import LaunchCall
from milpa_ray.store.port import Put


def capacity_put(keys: Keys, call: LaunchCall, scope: CapacityScope, lease: int) -> Put:
    """The record that this launch has just failed for lack of capacity, which reaches as far as ``scope``."""
    record = _record(scope, call.instance_type, call.zone, spot=call.spot, private_ip_only=call.private_ip_only)
    return Put(capacity_key(keys, record), json.dumps(asdict(record)).encode(), lease)


def taken_back_put(keys: Keys, node: Node, lease: int) -> Put:
    """The record that the cloud takes this node's instance back, and so has none of its kind to give for a while."""
    spec = node.spec
    zone, private = spec.placement.availability_zone, spec.resources.private_ip_only
    record = _record(CapacityScope.TYPE, spec.instance_type, zone, spot=spec.spot, private_ip_only=private)
    return Put(capacity_key(keys, record), json.dumps(asdict(record)).encode(), lease)


def capacity_key(keys: Keys, record: FullRecord) -> str:
    """Where it is recorded."""
    side = "private" if record.private_ip_only else "public"
    parts = {
        CapacityScope.TYPE: (_market(record), record.name, record.zone),
        CapacityScope.FAMILY: (_market(record), record.name),
        CapacityScope.SPOT: (),
        CapacityScope.SUBNET: (side, record.zone),
    }[record.scope]
    return keys.prefix("capacity") + "/".join((record.scope.value, *parts))


def given_back(node: Node) -> tuple[FullRecord, ...]:
    """What there is room for again once the node's instance has ended. One that the cloud has taken back leaves no room
    for another of its type there."""
    spec = node.spec
    private = spec.resources.private_ip_only
    return tuple(
        _record(
            scope,
            spec.instance_type,
            spec.placement.availability_zone,
            spot=spec.spot,
            private_ip_only=private,
        )
        for scope in CapacityScope
        if (spec.spot or scope != CapacityScope.SPOT) and not (scope == CapacityScope.TYPE and interrupted(node))
    )


def decode_capacity(_key: str, value: bytes) -> FullRecord:
    """Raises ValueError for a record that is not ours."""
    raw = json.loads(value)
    if not isinstance(raw, dict) or raw.keys() != FullRecord.__dataclass_fields__.keys():
        raise ValueError(f"no memory of a failed launch: {value[:100]!r}")
    return FullRecord(**raw | {"scope": CapacityScope(raw["scope"])})


def _record(scope: CapacityScope, instance_type: str, zone: str, *, spot: bool, private_ip_only: bool) -> FullRecord:
    """Says nothing beyond the scope, so that equal memories are one record."""
    match scope:
        case CapacityScope.TYPE:
            return FullRecord(scope, spot, instance_type, zone)
        case CapacityScope.FAMILY:
            return FullRecord(scope, spot, instance_type.partition(".")[0])
        case CapacityScope.SPOT:
            return FullRecord(scope, spot=True)
        case CapacityScope.SUBNET:
            return FullRecord(scope, zone=zone, private_ip_only=private_ip_only)


def _market(record: FullRecord) -> str:
    return "spot" if record.spot else "on-demand"
