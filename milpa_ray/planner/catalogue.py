"""What one region of a cloud offers: instance types, their sizes, prices and zones, as columns.

Columns, so that a planner compares all types with all waiting pods in a few numpy operations. Rows are sorted by name.
Reads no file: ``cloud.catalog.load_catalog`` builds it. Chooses nothing.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]
Names = NDArray[np.str_]


@dataclass(frozen=True, eq=False)
class Catalogue:
    """Instance types of one region; row i of every column is the type ``names[i]``.

    ``offered[i, z]`` says that ``zones[z]`` has type i. Where the data don't know a region's zones, ``zones`` is empty.
    """

    region: str
    names: tuple[str, ...]
    zones: tuple[str, ...]
    family: Names
    """Name up to the dot."""
    generation: Ints
    """The number in the family's name: 6 for m6i."""
    vcpus: Floats
    memory_mib: Ints
    gpu_count: Ints
    """Whole physical GPUs."""
    gpu_name: Names
    """Empty without GPU."""
    gpu_memory_mib: Ints
    """Of one GPU."""
    arch: Names
    """``amd64`` or ``arm64``; ``amd64_mac``, ``arm64_mac`` for Macs."""
    burstable: Flags
    """CPU credits (T family)."""
    flex: Flags
    """Shared CPU without credits."""
    baseline: Floats
    """Cores that may be used for ever at the plain price: ``vcpus`` unless burstable or flex."""
    surcharge: Floats
    """US dollars per vCPU-hour above the baseline in unlimited mode; 0 for types without credits."""
    unlimited_by_default: Flags
    """A burstable type that launches in unlimited credit mode unless told otherwise."""
    bare_metal: Flags
    current_generation: Flags
    price_on_demand: Floats
    """US dollars per hour, finite and > 0."""
    price_spot: Floats
    """Of the region, an estimate, in US dollars per hour; NaN where unknown."""
    price_spot_zone: Floats
    """``[i, z]``: in zone z, US dollars per hour; the region's estimate where nobody told the zone's price. NaN where
    neither is known or the zone does not have the type. Of no width where the region's zones are unknown."""
    offered: Flags
    _rows: dict[str, int] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._rows.update((name, row) for row, name in enumerate(self.names))

    def __len__(self) -> int:
        return len(self.names)

    def __contains__(self, name: object) -> bool:
        return name in self._rows

    def index(self, name: str) -> int:
        """Row of a type.

        Raises:
            KeyError: the region has no such type.
        """
        return self._rows[name]

    def zones_of(self, name: str) -> tuple[str, ...]:
        """Zones that offer the type (none where the region's zones are unknown). Raises KeyError."""
        return tuple(self.zones[zone] for zone in np.flatnonzero(self.offered[self.index(name)]))

    def price(self, name: str, spot: bool = False) -> float:
        """US dollars per hour; NaN when there is no known spot price. Raises KeyError."""
        return float((self.price_spot if spot else self.price_on_demand)[self.index(name)])
