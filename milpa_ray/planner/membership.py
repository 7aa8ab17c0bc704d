"""Who owns which slots: the map, computed from the members that are alive.

Ranges are contiguous and as equal as can be, in the order of the shards' ids. They change only when an id comes or
goes; a shard that comes back under its id with a new incarnation takes its old range.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from milpa_ray.keys import SLOTS


@dataclass(frozen=True, slots=True)
class ShardEntry:
    """One shard: its lasting id, the uuid of its present start, and its slots ``low`` to ``high`` - 1."""

    id: str
    incarnation: str
    low: int
    high: int


@dataclass(frozen=True, slots=True)
class ShardMap:
    """The map as stored. Its key's mod revision and ``term`` are the fencing token of all that are in it."""

    term: int = 1
    coordinator: str = ""
    shards: tuple[ShardEntry, ...] = ()

    def to_json(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, data: bytes) -> "ShardMap":
        raw = json.loads(data)
        return cls(raw["term"], raw["coordinator"], tuple(ShardEntry(**entry) for entry in raw["shards"]))

    def entry(self, shard_id: str, incarnation: str) -> ShardEntry | None:
        """This incarnation's entry, or None: it is not in the map and must not act."""
        return next((e for e in self.shards if e.id == shard_id and e.incarnation == incarnation), None)


def plan_map(old: ShardMap, coordinator: str, members: Mapping[str, str]) -> ShardMap:
    """The map for the living ``members`` (incarnation by shard id) under ``coordinator``."""
    if {e.id for e in old.shards} == set(members):
        shards = tuple(ShardEntry(e.id, members[e.id], e.low, e.high) for e in old.shards)
    else:
        ids = sorted(members)
        edges = [SLOTS * i // len(ids) for i in range(len(ids) + 1)] if ids else []
        shards = tuple(ShardEntry(id_, members[id_], edges[i], edges[i + 1]) for i, id_ in enumerate(ids))
    return ShardMap(old.term, coordinator, shards)
