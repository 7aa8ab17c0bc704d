"""Puts a region's fresh facts beside the shipped ones: whole, checked and at once, or not at all.

The file is written under another name, synced, read back and compared with what was known, and only then renamed. A
process that is killed meanwhile leaves the old file as it was; what it leaves under the other name the next one
deletes. Two at the same time don't disturb each other: the last one wins.
"""

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

import numpy as np

from cloud.catalog import Found, find_catalog, read_refreshed, refreshed_file
from cloud.catalog_file import CatalogBroken, InstanceType, RegionFacts, write
from milpa_ray.errors import Invalid
from milpa_ray.planner.catalogue import Catalogue

MIN_SHARE = 0.5
"""Fewer types than this share of those known before are not believed."""
MAX_PRICE_FACTOR = 3.0
"""Prices that on the whole (median) rose or fell by more are not believed: another currency or unit, rather."""
_TEMPORARY = ".tmp"


def save(folder: Path, facts: RegionFacts, types: Mapping[str, InstanceType]) -> Found:
    """Writes the region's file in ``folder``, which is made when it is missing; what is in it from now on.

    Raises:
        CatalogBroken: the facts cannot be true; the old file, if any, is as it was.
        OSError: it cannot be written; likewise.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _delete_leftovers(folder, facts.name)
    target = refreshed_file(folder, facts.name)
    with _temporary(folder, facts.name) as file:
        try:
            write(file, types, [facts])
        except OverflowError as error:
            raise CatalogBroken(f"{facts.name}: a figure is too big: {error}") from error
        file.flush()
        os.fsync(file.fileno())
        path = Path(file.name)
        fresh = read_refreshed(path, facts.name)
        if doubt := _doubt(fresh, folder):
            raise CatalogBroken(f"{facts.name}: {doubt}; nothing was replaced")
        path.chmod(0o644)  # public facts, and the controllers may run as another user
        path.replace(target)
    _sync_folder(folder)
    return Found(fresh.catalogue, fresh.as_of, fresh.source, target)


def _doubt(fresh: Found, folder: Path) -> str:
    """Why the facts are not believed, or empty."""
    try:
        shipped = find_catalog(fresh.catalogue.region)
        known = find_catalog(fresh.catalogue.region, folder).catalogue
    except Invalid:
        return ""  # nothing to compare with
    if fresh.as_of < shipped.as_of:
        return f"this machine's clock says {fresh.as_of}, but the shipped prices are of {shipped.as_of}: set the clock"
    if len(fresh.catalogue) < MIN_SHARE * len(known):
        return f"only {len(fresh.catalogue)} instance types are left of {len(known)}: try again later"
    factor = _price_factor(fresh.catalogue, known)
    if not 1 / MAX_PRICE_FACTOR <= factor <= MAX_PRICE_FACTOR:
        return f"prices are {factor:.3g} times those known: another currency or unit?"
    return ""


def _price_factor(fresh: Catalogue, known: Catalogue) -> float:
    """Median of new over old price of the types that both have; 1 when they have none in common."""
    common = [name for name in fresh.names if name in known]
    return float(np.median([fresh.price(name) / known.price(name) for name in common])) if common else 1.0


@contextlib.contextmanager
def _temporary(folder: Path, region: str) -> Iterator[IO[bytes]]:
    """A file of its own that is gone afterwards unless it was renamed. Locked: nobody takes it for a leftover."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix=f".{region}.", suffix=_TEMPORARY, delete=False) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield file
        finally:
            Path(file.name).unlink(missing_ok=True)


def _delete_leftovers(folder: Path, region: str) -> None:
    """Temporary files whose process has ended: nobody holds their lock."""
    for path in folder.glob(f".{region}.*{_TEMPORARY}"):
        with contextlib.suppress(OSError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """So that the new name outlives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
