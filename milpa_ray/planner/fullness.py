"""What the cloud had no room for a moment ago, as choices need it. Pure values; ``controller/capacity.py`` keeps them.

A failed launch tells of one type in one zone, of a whole family, of all spot, or of a zone's addresses, by the cloud's
error code. Spot never blocks on-demand, nor the other way round.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class FullKind(StrEnum):
    """How far a failed launch speaks."""

    TYPE = "type"
    """An instance type in a zone."""
    FAMILY = "family"
    """All sizes of a family, in all zones: an account's limit."""
    SPOT = "spot"
    """All spot: an account's limit, or a price that is too low."""
    SUBNET = "subnet"
    """A subnet without free addresses, and with it its zone."""


_KIND_OF_CODE = {
    "InsufficientFreeAddressesInSubnet": FullKind.SUBNET,
    "InsufficientAddressCapacity": FullKind.SUBNET,
    "InstanceLimitExceeded": FullKind.FAMILY,
    "VcpuLimitExceeded": FullKind.FAMILY,
    "MaxSpotInstanceCountExceeded": FullKind.SPOT,
    "SpotMaxPriceTooLow": FullKind.SPOT,
}


def kind_of(code: str, *, spot: bool) -> FullKind:
    """How far the cloud's error ``code`` speaks; a code that is not known tells of the type in its zone only."""
    kind = _KIND_OF_CODE.get(code, FullKind.TYPE)
    return FullKind.TYPE if kind == FullKind.SPOT and not spot else kind


@dataclass(frozen=True, slots=True, order=True)
class FullRecord:
    """One memory. Which fields count depends on ``kind``; the others are empty.

    ``spot`` is the capacity type (of a subnet it does not matter); ``name`` an instance type or family; ``subnet`` may
    be empty where the cloud has none. ``private_ip_only`` tells the subnets for private instances from the others.
    """

    kind: FullKind
    spot: bool = False
    name: str = ""
    zone: str = ""
    subnet: str = ""
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
        by_kind: dict[FullKind, list[FullRecord]] = {kind: [] for kind in FullKind}
        for record in records:
            by_kind[record.kind].append(record)
        return cls(
            frozenset((r.spot, r.name, r.zone) for r in by_kind[FullKind.TYPE]),
            frozenset((r.spot, r.name) for r in by_kind[FullKind.FAMILY]),
            bool(by_kind[FullKind.SPOT]),
            frozenset((r.private_ip_only, r.zone) for r in by_kind[FullKind.SUBNET]),
        )

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
