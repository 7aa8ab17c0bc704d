"""Who owns which slots: the map, computed from the members that hold a seat.

Ranges are contiguous, in the order of the shards' ids. They change only when an id comes or goes; a shard that comes
back under its id with a new incarnation takes its old range. Whether a silent member still holds its seat is not
decided here.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise

from milpa_ray.keys import SLOTS

MOST_SHARES = 2
"""A range is never longer than so many equal shares."""


@dataclass(frozen=True, slots=True)
class ShardEntry:
    """One shard: its lasting id, the uuid of its present start, and its slots ``low`` to ``high`` - 1."""

    id: str
    incarnation: str
    low: int
    high: int


@dataclass(frozen=True, slots=True)
class ShardMap:
    """The map as stored. Its key's mod revision and ``term`` are the fencing token of all that are in it. ``version``
    counts the rewrites, so that whoever follows the map can tell that it has missed none."""

    term: int = 1
    coordinator: str = ""
    shards: tuple[ShardEntry, ...] = ()
    version: int = 0

    def to_json(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, data: bytes) -> "ShardMap":
        raw = json.loads(data)
        shards = tuple(ShardEntry(**entry) for entry in raw["shards"])
        return cls(raw["term"], raw["coordinator"], shards, raw.get("version", 0))

    def entry(self, shard_id: str, incarnation: str) -> ShardEntry | None:
        """This incarnation's entry, or None: it is not in the map and must not act."""
        return next((e for e in self.shards if e.id == shard_id and e.incarnation == incarnation), None)


def plan_map(old: ShardMap, coordinator: str, members: Mapping[str, str]) -> ShardMap:
    """The map for the ``members`` (incarnation by shard id) under ``coordinator``; ``old`` itself if nothing differs.

    When shards go, their slots fall to the neighbours, half each, and nobody else moves. When one comes, all ranges are
    made equal again: to keep ranges contiguous and take from everybody more than a newcomer's share must move anyway,
    and so the map of a set of ids is always the same once all of them are back. The ranges are also made equal when
    one would hold more than ``MOST_SHARES`` equal shares.
    """
    known = {e.id for e in old.shards}
    if known == members.keys():
        ranges = [(e.id, e.low, e.high) for e in old.shards]
    elif known > members.keys():
        ranges = _left([e for e in old.shards if e.id in members])
    else:
        ranges = _equal(members)
    shards = tuple(ShardEntry(id_, members[id_], low, high) for id_, low, high in ranges)
    new = replace(old, coordinator=coordinator, shards=shards)
    return new if new == old else replace(new, version=old.version + 1)


def _equal(ids: Mapping[str, str]) -> list[tuple[str, int, int]]:
    ordered = sorted(ids)
    edges = [SLOTS * i // len(ordered) for i in range(len(ordered) + 1)] if ordered else []
    return [(id_, low, high) for id_, (low, high) in zip(ordered, pairwise(edges), strict=True)]


def _left(entries: Sequence[ShardEntry]) -> list[tuple[str, int, int]]:
    """The ranges of those that stay, with the gaps between them closed."""
    edges = [0, *((a.high + b.low) // 2 for a, b in pairwise(entries)), SLOTS]
    ranges = [(e.id, low, high) for e, (low, high) in zip(entries, pairwise(edges), strict=False)]
    if any((high - low) * len(ranges) > MOST_SHARES * SLOTS for _, low, high in ranges):
        return _equal({e.id: e.incarnation for e in entries})
    return ranges
