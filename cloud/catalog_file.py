"""The catalogue's file: instance types, and what regions offer of them, as compressed columns.

A zip of numpy arrays without pickle (numpy's npz) and one ``meta.json``; the zip's checksums show damage. The shipped
file holds all regions, a refreshed one holds one. The same facts always give the same bytes. Reads and writes the
facts as they are; what a planner sees of them is ``cloud.catalog``'s.

Members: ``types/<column>``, one row per instance type, sorted by name; and for each region ``<region>/types`` (rows of
the types it offers), ``on_demand``, ``spot``, ``zones``, ``offered`` and, where the spot prices of single zones are
known, ``spot_zone``.
"""

import io
import json
import math
import re
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import date
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from milpa_ray.errors import Terminal

FORMAT = 1
META = "meta.json"
MAX_BYTES = 64 << 20
"""A member that says it is bigger is not read."""

ARCHITECTURES = {"x86_64": "amd64", "arm64": "arm64", "x86_64_mac": "amd64_mac", "arm64_mac": "arm64_mac"}
"""AWS' names and ours."""
_GENERATION = re.compile(r"[a-z]+(\d+)")

_COLUMNS: Mapping[str, Any] = {
    "name": np.str_,
    "generation": np.uint16,
    "vcpus": np.uint16,
    "memory_mib": np.uint32,
    "gpu_count": np.uint16,
    "gpu_name": np.str_,
    "gpu_memory_mib": np.uint32,
    "arch": np.str_,
    "burstable": np.bool_,
    "flex": np.bool_,
    "baseline": np.float64,
    "surcharge": np.float64,
    "unlimited_by_default": np.bool_,
    "bare_metal": np.bool_,
    "current_generation": np.bool_,
}


class CatalogBroken(Terminal):
    """A catalogue file that is damaged, or of another format."""


@dataclass(frozen=True, slots=True)
class InstanceType:
    """Facts of a type that are the same in all regions. What each means: ``milpa_ray.planner.catalogue``."""

    name: str
    generation: int
    vcpus: int
    memory_mib: int
    arch: str
    gpu_count: int = 0
    gpu_name: str = ""
    gpu_memory_mib: int = 0
    burstable: bool = False
    flex: bool = False
    baseline: float = 0.0
    surcharge: float = 0.0
    unlimited_by_default: bool = False
    bare_metal: bool = False
    current_generation: bool = False


@dataclass(frozen=True, slots=True)
class Offer:
    """What a region asks for a type, in US dollars per hour. ``spot`` is the region's estimate, NaN when unknown.
    ``zones``: the zones that have it, with their spot prices (NaN when unknown)."""

    on_demand: float
    spot: float
    zones: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class RegionFacts:
    """What a region offers, by type. ``as_of`` is the day of its on-demand prices."""

    name: str
    as_of: date
    source: str
    offers: Mapping[str, Offer]


@dataclass(frozen=True, slots=True)
class Columns:
    """One region as stored: the columns of the types it offers, and of its offers, sorted by name."""

    region: str
    as_of: date
    source: str
    types: Mapping[str, NDArray[Any]]
    on_demand: NDArray[np.float64]
    spot: NDArray[np.float64]
    zones: tuple[str, ...]
    offered: NDArray[np.bool_]
    spot_zone: NDArray[np.float64] | None
    """None: nobody told the zones' own prices."""


def generation(name: str) -> int:
    """5 of c5.large, 1 of u-6tb1.metal (where the first number is a size), 7 of u7i-12tb.224xlarge."""
    family = name.partition(".")[0]
    found = re.search(r"(\d+)$", family) if family.startswith("u-") else _GENERATION.match(family)
    return int(found[1]) if found else 0


# ---------------------------------------------------------------- writing


def write(file: IO[bytes], types: Mapping[str, InstanceType], regions: Sequence[RegionFacts]) -> None:
    """Writes the file's bytes. Types that no region offers are left out.

    Raises:
        KeyError: a region offers a type that is not in ``types``.
    """
    names = sorted({name for region in regions for name in region.offers})
    rows = {name: row for row, name in enumerate(names)}
    described = [types[name] for name in names]
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        meta = {
            "format": FORMAT,
            "regions": {
                region.name: {"as_of": region.as_of.isoformat(), "source": region.source} for region in regions
            },
        }
        _add(archive, META, (json.dumps(meta, indent=1, sort_keys=True) + "\n").encode())
        for column in fields(InstanceType):
            values = [getattr(each, column.name) for each in described]
            _add_array(archive, f"types/{column.name}", np.array(values, dtype=_COLUMNS[column.name]))
        for region in regions:
            _add_region(archive, region, rows)


def _add_region(archive: zipfile.ZipFile, region: RegionFacts, rows: Mapping[str, int]) -> None:
    names = sorted(region.offers)
    offers = [region.offers[name] for name in names]
    zones = sorted({zone for offer in offers for zone in offer.zones})
    shape = (len(names), len(zones))
    spot = np.array([[offer.zones.get(zone, math.nan) for zone in zones] for offer in offers], np.float64)
    offered = np.array([[zone in offer.zones for zone in zones] for offer in offers], np.bool_)
    columns: dict[str, NDArray[Any]] = {
        "types": np.array([rows[name] for name in names], np.uint16),
        "on_demand": np.array([offer.on_demand for offer in offers], np.float64),
        "spot": np.array([offer.spot for offer in offers], np.float64),
        "zones": np.array(zones, np.str_),
        "offered": offered.reshape(shape),
    }
    if not np.isnan(spot).all():
        columns["spot_zone"] = spot.reshape(shape)
    for name, values in columns.items():
        _add_array(archive, f"{region.name}/{name}", values)


def _add_array(archive: zipfile.ZipFile, name: str, values: NDArray[Any]) -> None:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, values, allow_pickle=False)
    _add(archive, name, buffer.getvalue())


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    entry = zipfile.ZipInfo(name)  # its date is always the same, so that the same facts give the same bytes
    entry.compress_type = zipfile.ZIP_DEFLATED
    archive.writestr(entry, content, compresslevel=9)


# ---------------------------------------------------------------- reading


def read_regions(path: Path) -> dict[str, date]:
    """Regions that the file holds, with the day of their prices.

    Raises:
        CatalogBroken: it cannot be used.
        FileNotFoundError: there is none.
    """
    with _Reader(path) as reader:
        return {region: date.fromisoformat(facts["as_of"]) for region, facts in reader.regions.items()}


def read_region(path: Path, region: str) -> Columns:
    """One region's columns.

    Raises:
        CatalogBroken: the file cannot be used, or does not hold the region.
        FileNotFoundError: there is none.
    """
    with _Reader(path) as reader:
        return reader.region(region)


def read_types(path: Path) -> dict[str, InstanceType]:
    """All types that the file knows.

    Raises:
        CatalogBroken: it cannot be used.
        FileNotFoundError: there is none.
    """
    with _Reader(path) as reader:
        columns = [reader.array(f"types/{column.name}").tolist() for column in fields(InstanceType)]
        return {row[0]: InstanceType(*row) for row in zip(*columns, strict=True)}


DAMAGE = (ValueError, LookupError, TypeError, EOFError, OSError, RuntimeError, zipfile.BadZipFile, zlib.error)
"""What reading a damaged file raises. A flipped flag makes zipfile take an entry for encrypted or patched, and say so
by a RuntimeError or its child NotImplementedError."""


class _Reader:
    """An open file. Whatever is wrong with it leaves the ``with`` block as CatalogBroken."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> "_Reader":
        try:
            self._archive = zipfile.ZipFile(self._path)
        except FileNotFoundError:
            raise
        except DAMAGE as error:
            raise self._broken(error) from error
        try:
            meta = json.loads(self._bytes(META))
            if meta["format"] != FORMAT:
                raise CatalogBroken(f"{self._path}: format {meta['format']} is not this version's ({FORMAT})")
            self.regions: dict[str, dict[str, str]] = dict(meta["regions"])
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._archive.close()
        if isinstance(error, DAMAGE):
            raise self._broken(error) from error

    def _broken(self, error: BaseException) -> CatalogBroken:
        return CatalogBroken(f"{self._path} is damaged ({type(error).__name__}: {error})")

    def region(self, region: str) -> Columns:
        if region not in self.regions:
            raise CatalogBroken(f"{self._path} does not hold region {region!r}")
        rows = self.array(f"{region}/types")
        spot_zone = f"{region}/spot_zone"
        return Columns(
            region=region,
            as_of=date.fromisoformat(self.regions[region]["as_of"]),
            source=str(self.regions[region]["source"]),
            types={name: self.array(f"types/{name}")[rows] for name in _COLUMNS},
            on_demand=self.array(f"{region}/on_demand"),
            spot=self.array(f"{region}/spot"),
            zones=tuple(self.array(f"{region}/zones").tolist()),
            offered=self.array(f"{region}/offered"),
            spot_zone=self.array(spot_zone) if spot_zone in self._archive.NameToInfo else None,
        )

    def array(self, name: str) -> NDArray[Any]:
        buffer = io.BytesIO(self._bytes(name))
        values: NDArray[Any] = np.lib.format.read_array(buffer, allow_pickle=False)
        return values

    def _bytes(self, name: str) -> bytes:
        if self._archive.getinfo(name).file_size > MAX_BYTES:
            raise ValueError(f"{name} is too big")
        return self._archive.read(name)
