"""The price catalogue: EC2's instance types, prices and zones by region.

From the file that ships with the package (``cloud/data/README.md`` names its sources and gaps), or from a newer one
that ``milpa catalog refresh`` has fetched. A refreshed file that cannot be used is told of and passed over. Chooses no
instance and asks no cloud.
"""

import logging
from dataclasses import dataclass
from datetime import date
from functools import cache
from pathlib import Path

import numpy as np

from cloud.catalog_file import CatalogBroken, Columns, InstanceType, read_region, read_regions, read_types
from milpa_ray.errors import Invalid
from milpa_ray.planner.catalogue import Catalogue

log = logging.getLogger(__name__)

SHIPPED = Path(__file__).with_name("data") / "ec2.npz"
SUFFIX = ".npz"
MAX_AGE_DAYS = 90
"""Prices older than this are warned of."""


@dataclass(frozen=True, slots=True)
class Found:
    """A region's catalogue and where it is from. ``path`` is the refreshed file, None for the shipped one. ``as_of`` is
    the day of the on-demand prices; ``problem`` says why a refreshed file was not used."""

    catalogue: Catalogue
    as_of: date
    source: str
    path: Path | None = None
    problem: str = ""

    def age_days(self, today: date) -> int:
        """Days since the prices were asked; never negative."""
        return max(0, (today - self.as_of).days)

    def old(self, today: date) -> bool:
        """Whether the prices are to be warned of."""
        return self.age_days(today) > MAX_AGE_DAYS


def regions(refreshed: Path | None = None) -> tuple[str, ...]:
    """Names of the regions that the shipped data know, and of those that have a file in ``refreshed``; sorted."""
    return tuple(sorted({*_shipped_regions(), *_refreshed_regions(refreshed)}))


def load_catalog(region: str, refreshed: Path | None = None) -> Catalogue:
    """The region's catalogue: from its file in the folder ``refreshed`` when that is newer, else the shipped one. A
    refreshed file that cannot be used is logged. Types without a price, and types that no zone offers any more, are
    not in it.

    Raises:
        Invalid: there is no such region.
    """
    found = find_catalog(region, refreshed)
    if found.problem:
        log.warning("%s", found.problem)
    return found.catalogue


def find_catalog(region: str, refreshed: Path | None = None) -> Found:
    """As ``load_catalog``, with the origin; logs nothing.

    Raises:
        Invalid: there is no such region.
    """
    known = region in _shipped_regions()
    problem = ""
    if refreshed is not None and region in _refreshed_regions(refreshed):
        path = refreshed_file(refreshed, region)
        try:
            found = read_refreshed(path, region)
        except (CatalogBroken, OSError) as error:
            problem = f"refreshed catalogue not used: {error}; 'milpa catalog refresh --region {region}' makes it anew"
        else:
            if not known or found.as_of >= _shipped_regions()[region]:
                return found
    if not known:
        raise Invalid(
            problem
            or f"region: {region[:80]!r} is unknown; known are {', '.join(regions(refreshed))}"
            + (". 'milpa catalog refresh --region' fetches others that AWS has" if refreshable(region) else "")
        )
    shipped = _shipped(region)
    return Found(shipped.catalogue, shipped.as_of, shipped.source, None, problem)


def refreshable(region: str) -> bool:
    """Whether AWS' price list may be asked for the region: not from GovCloud, nor for China, where it is in yuan."""
    return not region.startswith(("cn-", "us-gov-"))


class Current:
    """The region's catalogue as it is at the moment: read anew when its refreshed file has changed since. For what
    lives longer than a refresh."""

    def __init__(self, region: str, refreshed: Path | None) -> None:
        self._region, self._folder = region, refreshed
        self._stamp = self._look()
        self._catalogue = load_catalog(region, refreshed)

    def get(self) -> Catalogue:
        """The catalogue. What cannot be read any more leaves the last one."""
        stamp = self._look()
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                self._catalogue = load_catalog(self._region, self._folder)
            except Invalid as error:  # a region that only the refreshed file knew
                log.warning("%s", error)
        return self._catalogue

    def _look(self) -> tuple[int, ...]:
        if self._folder is None:
            return ()
        try:
            found = refreshed_file(self._folder, self._region).stat()
        except OSError:
            return ()
        return found.st_ino, found.st_size, found.st_mtime_ns


def refreshed_file(folder: Path, region: str) -> Path:
    """Where a refreshed region is kept."""
    return folder / f"{region}{SUFFIX}"


def read_refreshed(path: Path, region: str) -> Found:
    """The region out of one refreshed file.

    Raises:
        CatalogBroken: it is damaged, or its figures make no sense.
        OSError: it cannot be read.
    """
    return _found(read_region(path, region), path)


def known_types() -> dict[str, InstanceType]:
    """All instance types that the shipped data have, with what AWS's APIs don't tell of them."""
    return read_types(SHIPPED)


@cache
def _shipped_regions() -> dict[str, date]:
    return read_regions(SHIPPED)


@cache
def _shipped(region: str) -> Found:
    return _found(read_region(SHIPPED, region))


def _refreshed_regions(folder: Path | None) -> set[str]:
    if folder is None:
        return set()
    try:
        return {path.stem for path in folder.iterdir() if path.suffix == SUFFIX and not path.name.startswith(".")}
    except OSError:
        return set()


def _found(columns: Columns, path: Path | None = None) -> Found:
    try:
        catalogue = _catalogue(columns)
        wrong = _nonsense(catalogue)
    except (ValueError, IndexError, TypeError) as error:
        wrong = str(error)
    if wrong:
        raise CatalogBroken(f"{path or SHIPPED}: {columns.region}: {wrong}")
    return Found(catalogue, columns.as_of, columns.source, path)


def _catalogue(columns: Columns) -> Catalogue:
    types = columns.types
    spot_zone = columns.spot_zone
    if spot_zone is None:
        spot_zone = np.where(columns.offered, columns.spot[:, None], np.nan)
    catalogue = Catalogue(
        region=columns.region,
        names=tuple(types["name"].tolist()),
        zones=columns.zones,
        family=np.strings.partition(types["name"], ".")[0],
        generation=types["generation"].astype(np.int64),
        vcpus=types["vcpus"].astype(np.float64),
        memory_mib=types["memory_mib"].astype(np.int64),
        gpu_count=types["gpu_count"].astype(np.int64),
        gpu_name=types["gpu_name"],
        gpu_memory_mib=types["gpu_memory_mib"].astype(np.int64),
        arch=types["arch"],
        burstable=types["burstable"],
        flex=types["flex"],
        baseline=types["baseline"],
        surcharge=types["surcharge"],
        unlimited_by_default=types["unlimited_by_default"],
        bare_metal=types["bare_metal"],
        current_generation=types["current_generation"],
        price_on_demand=columns.on_demand,
        price_spot=columns.spot,
        price_spot_zone=spot_zone,
        offered=columns.offered,
    )
    for value in vars(catalogue).values():
        if isinstance(value, np.ndarray):
            value.flags.writeable = False  # one catalogue serves all who ask
    return catalogue


def _nonsense(catalogue: Catalogue) -> str:
    """What in the figures cannot be, or empty."""
    count, prices = len(catalogue), catalogue.price_on_demand
    shape = (count, len(catalogue.zones))
    spots = np.concatenate([catalogue.price_spot, catalogue.price_spot_zone.ravel()])
    checks = {
        "it offers nothing": count > 0,
        "names are not sorted, or there twice": list(catalogue.names) == sorted(set(catalogue.names)),
        "zones are not sorted, or there twice": list(catalogue.zones) == sorted(set(catalogue.zones)),
        "columns differ in length": prices.shape == catalogue.price_spot.shape == (count,),
        "zones' columns differ in size": catalogue.offered.shape == catalogue.price_spot_zone.shape == shape,
        "a price is not a positive number": bool((np.isfinite(prices) & (prices > 0)).all()),
        "a spot price is not a positive number": bool((np.isnan(spots) | (np.isfinite(spots) & (spots > 0))).all()),
        "a type is in no zone": not catalogue.zones or bool(catalogue.offered.any(axis=1).all()),
        "a type has no CPU or no memory": bool(((catalogue.vcpus > 0) & (catalogue.memory_mib > 0)).all()),
        "a baseline is not between 0 and the CPUs": bool(
            ((catalogue.baseline > 0) & (catalogue.baseline <= catalogue.vcpus)).all()
        ),
    }
    return next((text for text, good in checks.items() if not good), "")
