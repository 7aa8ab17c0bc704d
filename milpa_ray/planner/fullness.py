"""What the cloud had no room for a moment ago, as choices need it. Pure values; ``controller/capacity.py`` keeps them.

A failed launch tells of one type in one zone, of a whole family, of all spot, or of a zone's addresses. Spot never
blocks on-demand, nor the other way round.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from milpa_ray.errors import CapacityScope


@dataclass(frozen=True, slots=True, order=True)
class FullRecord:
    """One memory. Which fields count depends on ``scope``; the others are empty.

    ``spot`` is the capacity type (of addresses it does not matter); ``name`` an instance type or family;
    ``private_ip_only`` tells subnets for private instances from the others.
    """

    scope: CapacityScope
    spot: bool = False
    name: str = ""
    zone: str = ""
    private_ip_only: bool = False


@dataclass(frozen=True, slots=True)
class Full:
    """All that is full now. Hashable, so that tables made for it can be kept.

    ``types`` holds (spot, instance type, zone), ``families`` (spot, family), ``zones`` (private IP only, zone).
    """

    types: frozenset[tuple[bool, str, str]] = frozenset()
    families: frozenset[tuple[bool, str]] = frozenset()
    spot: bool = False
    zones: frozenset[tuple[bool, str]] = frozenset()

    @classmethod
    def of(cls, records: Iterable[FullRecord]) -> "Full":
        by_scope: dict[CapacityScope, list[FullRecord]] = {scope: [] for scope in CapacityScope}
        for record in records:
            by_scope[record.scope].append(record)
        return cls(
            frozenset((r.spot, r.name, r.zone) for r in by_scope[CapacityScope.TYPE]),
            frozenset((r.spot, r.name) for r in by_scope[CapacityScope.FAMILY]),
            bool(by_scope[CapacityScope.SPOT]),
            frozenset((r.private_ip_only, r.zone) for r in by_scope[CapacityScope.SUBNET]),
        )

    def with_types(self, types: Iterable[tuple[bool, str, str]]) -> "Full":
        """With more (spot, instance type, zone) that are full."""
        return replace(self, types=self.types | frozenset(types))

    def seen_by(self, *, spot: bool, private_ip_only: bool) -> "Full":
        """The part that matters to requests of this kind: equal for all of them, whatever else is full."""
        if not (self.types or self.families or self.spot or self.zones):
            return self
        return Full(
            frozenset(entry for entry in self.types if entry[0] == spot),
            frozenset(entry for entry in self.families if entry[0] == spot),
            self.spot and spot,
            frozenset(entry for entry in self.zones if entry[0] == private_ip_only),
        )


NOTHING_FULL = Full()
