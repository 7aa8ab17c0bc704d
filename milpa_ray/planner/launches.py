"""The coordinator's planning: which nodes to launch together, and what the cloud's answers mean for node records.

A batch is a stored record: its token, the complete call and the ordered node names. What a node's record needs
to be launched is all in it; nothing is chosen here but who shares a call.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from milpa_ray.api.node import Node, NodePhase
from milpa_ray.api.pod import NetworkAddress
from milpa_ray.planner.pods import LAUNCH_REJECTED
from milpa_ray.planner.snapshot import Versioned
from milpa_ray.planner.volumes import gib
from milpa_ray.ports import Instance, InstanceState, LaunchCall


@dataclass(frozen=True, slots=True)
class Batch:
    """A launch as stored: instance i of the answer is node i. ``call`` is sent as it is, however often."""

    call: LaunchCall
    nodes: tuple[str, ...]

    @property
    def token(self) -> str:
        return self.call.token

    def to_json(self) -> bytes:
        call = {slot: getattr(self.call, slot) for slot in LaunchCall.__slots__}
        call["user_data"] = self.call.user_data.hex()
        call["tags"] = dict(self.call.tags)
        return json.dumps({"call": call, "nodes": self.nodes}).encode()

    @classmethod
    def from_json(cls, data: bytes) -> "Batch":
        raw = json.loads(data)
        raw["call"]["user_data"] = bytes.fromhex(raw["call"]["user_data"])
        raw["call"]["security_groups"] = tuple(raw["call"].get("security_groups", ()))
        return cls(LaunchCall(**raw["call"]), tuple(raw["nodes"]))


@dataclass(frozen=True, slots=True)
class LaunchKind:
    """What makes launches differ; nodes of one kind can share a call."""

    instance_type: str
    zone: str
    spot: bool
    image: str
    private_ip_only: bool
    volume_gib: int
    credits: str


@dataclass(frozen=True, slots=True)
class LaunchGroup:
    """Nodes that one call can launch."""

    kind: LaunchKind
    nodes: tuple[Versioned[Node], ...]


def launch_kind(node: Node, default_volume_gib: int = 0) -> LaunchKind:
    """What the node's record asks for. Its root volume is never smaller than ``default_volume_gib``."""
    spec = node.spec
    return LaunchKind(
        spec.instance_type,
        spec.placement.availability_zone,
        spec.spot,
        spec.boot_image,
        spec.resources.private_ip_only,
        max(gib(spec.resources.volume_size), default_volume_gib),
        spec.cpu_credits,
    )


def plan_launches(nodes: Iterable[Versioned[Node]], batch_size: int, default_volume_gib: int = 0) -> list[LaunchGroup]:
    """Groups Creating nodes that are in no batch yet, at most ``batch_size`` each, in the order given."""
    groups: dict[LaunchKind, list[Versioned[Node]]] = {}
    for node in nodes:
        groups.setdefault(launch_kind(node.obj, default_volume_gib), []).append(node)
    return [
        LaunchGroup(kind, tuple(members[start : start + batch_size]))
        for kind, members in groups.items()
        for start in range(0, len(members), batch_size)
    ]


def addresses_of(instance: Instance) -> tuple[NetworkAddress, ...]:
    """The instance's addresses as a node's status lists them."""
    pairs = (
        ("PrivateIP", instance.private_ip),
        ("PrivateDNS", instance.private_dns),
        ("PublicIP", instance.public_ip),
        ("PublicDNS", instance.public_dns),
    )
    return tuple(NetworkAddress(type=kind, address=address) for kind, address in pairs if address)


def _status(node: Node, now: datetime, phase: NodePhase, **changes: object) -> Node:
    if phase != node.status.phase:
        changes |= {"phase": phase, "last_phase_change": now}
    return node.model_copy(update={"status": node.status.model_copy(update=changes)})


def launched(node: Node, instance: Instance, call: LaunchCall, now: datetime) -> Node:
    """The node with its instance's facts, as launched by ``call``: Created."""
    return _status(
        node,
        now,
        NodePhase.CREATED,
        instance_id=instance.id,
        addresses=addresses_of(instance),
        batch=call.token,
        volume_gib=call.volume_gib,
        identity="bootstrap",
    )


def not_launched(node: Node, reason: str, message: str, now: datetime) -> Node:
    """The node ended before it had an instance: Terminated."""
    return _status(node, now, NodePhase.TERMINATED, reason=reason or LAUNCH_REJECTED, message=message)


def terminated(node: Node, now: datetime, message: str) -> Node:
    """The cloud has proved that the instance is gone: Terminated."""
    kept = {"reason": node.status.reason, "message": node.status.message} if node.status.reason else {}
    return _status(node, now, NodePhase.TERMINATED, **({"reason": "InstanceGone", "message": message} | kept))


WITH_INSTANCE = frozenset(
    {NodePhase.CREATED, NodePhase.AVAILABLE, NodePhase.CLAIMED, NodePhase.CLEANING, NodePhase.TERMINATING}
)


@dataclass(frozen=True, slots=True)
class Sighting:
    """How often in a row an instance was missing from the cloud's list, and since when (monotonic seconds)."""

    times: int
    since: float


MISSING_TIMES = 3
MISSING_S = 180.0
"""An instance that the list leaves out this often in a row, for this long, counts as gone: a list may lag behind a
launch by a minute and be long on its way, and EC2 shows terminated instances for about an hour."""


def instance_news(
    nodes: Sequence[Versioned[Node]],
    instances: Mapping[str, Instance],
    missing: Mapping[str, Sighting],
    now: datetime,
) -> list[tuple[Versioned[Node], Node]]:
    """Node records that the cloud's list proves to be out of date: (as stored, as it should be).

    ``instances`` by id; ``missing`` counts, by instance id, lists without it.
    """
    news = []
    for stored in nodes:
        node = stored.obj
        instance = instances.get(node.status.instance_id)
        if instance is None:
            sighting = missing.get(node.status.instance_id)
            if sighting is not None and sighting.times >= MISSING_TIMES:
                news.append((stored, terminated(node, now, "the cloud no longer lists its instance")))
        elif instance.state == InstanceState.TERMINATED:
            news.append((stored, terminated(node, now, "the cloud has terminated its instance")))
        elif (addresses := addresses_of(instance)) != node.status.addresses and addresses:
            news.append((stored, _status(node, now, node.status.phase, addresses=addresses)))
    return news


def note_missing(
    nodes: Iterable[Versioned[Node]], instances: Mapping[str, Instance], missing: Mapping[str, Sighting], at: float
) -> dict[str, Sighting]:
    """The missing counts after one more list, at monotonic time ``at``. A count is confirmed only once
    ``MISSING_S`` have passed since the first miss."""
    after: dict[str, Sighting] = {}
    for stored in nodes:
        instance_id = stored.obj.status.instance_id
        if not instance_id or instance_id in instances:
            continue
        before = missing.get(instance_id)
        if before is None:
            after[instance_id] = Sighting(1, at)
        else:
            times = before.times + 1
            if at - before.since < MISSING_S:
                times = min(times, MISSING_TIMES - 1)
            after[instance_id] = Sighting(times, before.since)
    return after
