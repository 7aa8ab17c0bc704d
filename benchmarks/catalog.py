"""How long the price catalogue takes to load, region by region: ``python -m benchmarks.catalog``.

In a process that has numpy already, the file in the page cache; each region is loaded anew a few times.
"""

import statistics
import time

import numpy as np  # noqa: F401 - its import is not part of what is measured

from cloud import catalog
from cloud.catalog_file import read_regions

REPEATS = 5


def main() -> None:
    """Prints the table."""
    print(f"{catalog.SHIPPED.name}: {catalog.SHIPPED.stat().st_size >> 10} KiB")
    print("| region | types | zones | best ms | median ms |")
    print("|---|---|---|---|---|")
    for region in read_regions(catalog.SHIPPED):
        times = [_load_s(region) * 1000 for _ in range(REPEATS)]
        found = catalog.read_refreshed(catalog.SHIPPED, region).catalogue
        print(f"| {region} | {len(found)} | {len(found.zones)} | {min(times):.1f} | {statistics.median(times):.1f} |")


def _load_s(region: str) -> float:
    began = time.perf_counter()
    catalog.read_refreshed(catalog.SHIPPED, region)  # as the shipped file is read, without the cache above it
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
