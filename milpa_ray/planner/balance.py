"""Spreads equal requests over zones. Pure arithmetic; which zones there are to choose from, others know."""

import hashlib
from collections.abc import Mapping, Sequence


def emptiest(zones: Sequence[str], present: Mapping[str, int], name: str = "") -> str:
    """The zone with the fewest; of several equal ones, one that ``name`` picks, always the same."""
    start = hashlib.blake2b(name.encode(), digest_size=2).digest()[0] % len(zones) if name else 0
    rotated = [*zones[start:], *zones[:start]]
    return min(rotated, key=lambda zone: present.get(zone, 0))


def balance(zones: Sequence[str], present: Mapping[str, int], count: int) -> list[str]:
    """Zones for ``count`` more, so that all of ``zones`` end up as equal as those ``present`` allow.

    Nothing is moved: a zone that has too many just gets none. Counts of other zones do not matter.
    """
    counts = {zone: present.get(zone, 0) for zone in zones}
    chosen: list[str] = []
    for _ in range(count if zones else 0):
        zone = emptiest(zones, counts)
        counts[zone] += 1
        chosen.append(zone)
    return chosen
