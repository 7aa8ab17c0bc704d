"""The price catalogue: EC2's instance types, prices and zones by region, from the package's own data.

Fast enough to be read when first needed (some 10 ms per region). Chooses nothing: that is the planner's.

Data, made from public price lists and type lists (``cloud/data/README.md`` names sources and gaps):

    cloud/data/types.csv.gz            one row per instance type
    cloud/data/prices/<region>.csv.gz  one row per type that the region has a price for
"""

import csv
import gzip
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from milpa_ray.errors import Invalid
from milpa_ray.planner.catalogue import Catalogue

_DATA = Path(__file__).with_name("data")
_ARCH = {"x86_64": "amd64", "x86_64_mac": "amd64_mac"}
_GENERATION = re.compile(r"[a-z]+(\d+)")


@cache
def regions() -> tuple[str, ...]:
    """Names of the regions that the data know, sorted."""
    return tuple(sorted(path.name.removesuffix(".csv.gz") for path in (_DATA / "prices").glob("*.csv.gz")))


@cache
def load_catalogue(region: str) -> Catalogue:
    """The region's catalogue. Types without a price, and types that no zone offers any more, are left out.

    Raises:
        Invalid: there is no such region.
    """
    import numpy as np

    if region not in regions():
        raise Invalid(f"region: {region!r} is unknown; known are {', '.join(regions())}")
    types = {row[0]: row for row in _rows(_DATA / "types.csv.gz")}
    prices = sorted(_rows(_DATA / "prices" / f"{region}.csv.gz"))
    zones = tuple(sorted({zone for price in prices for zone in price[3].split(";") if zone}))
    # A region without any zone is one whose zones nobody recorded; elsewhere no zone means: not offered any more.
    prices = [price for price in prices if price[0] in types and float(price[1] or 0) > 0 and (price[3] or not zones)]
    rows = [types[price[0]] for price in prices]
    columns = list(zip(*rows, strict=True))
    offered = np.zeros((len(rows), len(zones)), dtype=np.bool_)
    position = {zone: column for column, zone in enumerate(zones)}
    for row, price in enumerate(prices):
        for zone in filter(None, price[3].split(";")):
            offered[row, position[zone]] = True
    spot = np.array([float(price[2] or "nan") for price in prices])

    return Catalogue(
        region=region,
        names=tuple(columns[0]),
        zones=zones,
        family=np.array(columns[1]),
        generation=np.array([_generation(family) for family in columns[1]], dtype=np.int64),
        vcpus=np.array(columns[2], dtype=np.float64),
        memory_mib=np.array(columns[3], dtype=np.int64),
        gpu_count=np.array(columns[4], dtype=np.int64),
        gpu_name=np.array(columns[5]),
        gpu_memory_mib=np.array(columns[6], dtype=np.int64),
        arch=np.array([_ARCH.get(arch, arch) for arch in columns[7]]),
        burstable=np.array([kind == "credits" for kind in columns[8]]),
        flex=np.array([kind == "flex" for kind in columns[8]]),
        baseline=np.array(columns[9], dtype=np.float64),
        surcharge=np.array([float(value or 0) for value in columns[10]]),
        unlimited_by_default=np.array([mode == "unlimited" for mode in columns[11]]),
        bare_metal=np.array([flag == "1" for flag in columns[12]]),
        current_generation=np.array([flag == "1" for flag in columns[13]]),
        price_on_demand=np.array([float(price[1]) for price in prices]),
        price_spot=spot,
        price_spot_zone=np.where(offered, spot[:, None], np.nan),
        offered=offered,
    )


def _generation(family: str) -> int:
    """5 of c5, 6 of m6idn, 1 of u-6tb1 (where the first number is a size), 7 of u7i-12tb."""
    found = re.search(r"(\d+)$", family) if family.startswith("u-") else _GENERATION.match(family)
    return int(found[1]) if found else 0


def _rows(path: Path) -> Iterator[list[str]]:
    """Rows without the header."""
    with gzip.open(path, "rt", newline="") as file:
        rows = csv.reader(file)
        next(rows)
        yield from rows
