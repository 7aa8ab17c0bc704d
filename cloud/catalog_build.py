"""Makes the catalogue's file out of CSV files: ``python -m cloud.catalog_build CSV_DIR OUT``.

For those who maintain Milpa's data; nothing at run time needs it. The same CSV files give the same facts.

    instance_types.csv  instance_type, vcpus, memory_mib, gpu_count, gpu_name, gpu_memory_mib, arch, burstable,
                        baseline_vcpus, bare_metal, current_generation
    prices.csv          region, instance_type, on_demand_usd_hour, spot_usd_hour, zones (separated by ;)
    burstable.csv       instance_type, kind (credits or flex), baseline_vcpus, surplus_usd_per_vcpu_hour, default_mode
"""

import argparse
import csv
import math
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path

from cloud.catalog_file import ARCHITECTURES, InstanceType, Offer, RegionFacts, generation, write

PRICES_AS_OF = date(2025, 4, 4)
PRICES_AS_OF_IN = {region: date(2026, 7, 20) for region in ("us-east-1", "us-gov-east-1", "us-gov-west-1")}
"""Days of the price lists that the CSV files were made from; the files themselves don't say them."""
SOURCE = "shipped"


def build(folder: Path, out: Path) -> tuple[int, int]:
    """Writes ``out``; the numbers of types and of offers in it.

    Raises:
        OSError, KeyError, ValueError: a file of ``folder`` is missing or not as described above.
    """
    types = read_types(folder)
    regions = read_prices(folder, types)
    with out.open("wb") as file:
        write(file, types, regions)
    return len({name for region in regions for name in region.offers}), sum(len(region.offers) for region in regions)


def read_types(folder: Path) -> dict[str, InstanceType]:
    """All types, by name."""
    shared = {row["instance_type"]: row for row in _rows(folder / "burstable.csv")}
    return {
        row["instance_type"]: _instance_type(row, shared.get(row["instance_type"], {}))
        for row in _rows(folder / "instance_types.csv")
    }


def _instance_type(row: Mapping[str, str], shared: Mapping[str, str]) -> InstanceType:
    name, kind = row["instance_type"], shared.get("kind", "")
    if (row["burstable"] == "1") != (kind == "credits"):
        raise ValueError(f"{name}: burstable.csv and instance_types.csv disagree on whether it has CPU credits")
    return InstanceType(
        name=name,
        generation=generation(name),
        vcpus=int(row["vcpus"]),
        memory_mib=int(row["memory_mib"]),
        arch=ARCHITECTURES[row["arch"]],
        gpu_count=int(row["gpu_count"]),
        gpu_name=row["gpu_name"],
        gpu_memory_mib=int(row["gpu_memory_mib"]),
        burstable=kind == "credits",
        flex=kind == "flex",
        baseline=float(shared.get("baseline_vcpus") or row["baseline_vcpus"]),
        surcharge=float(shared.get("surplus_usd_per_vcpu_hour") or 0),
        unlimited_by_default=shared.get("default_mode") == "unlimited",
        bare_metal=row["bare_metal"] == "1",
        current_generation=row["current_generation"] == "1",
    )


def read_prices(folder: Path, types: Mapping[str, InstanceType]) -> list[RegionFacts]:
    """All regions, sorted by name.

    A region without any zone is one whose zones nobody recorded. In the others a type without a zone is one that is
    not offered any more: it is left out, like a type without a price and one that ``types`` does not have.
    """
    rows: dict[str, list[dict[str, str]]] = defaultdict(list)
    for row in _rows(folder / "prices.csv"):
        rows[row["region"]].append(row)
    regions = []
    for region, of_region in sorted(rows.items()):
        zones_known = any(row["zones"] for row in of_region)
        offers = {
            row["instance_type"]: Offer(
                float(row["on_demand_usd_hour"]),
                float(row["spot_usd_hour"] or math.nan),
                dict.fromkeys(filter(None, row["zones"].split(";")), math.nan),
            )
            for row in of_region
            if row["instance_type"] in types
            and float(row["on_demand_usd_hour"] or 0) > 0
            and (row["zones"] or not zones_known)
        }
        regions.append(RegionFacts(region, PRICES_AS_OF_IN.get(region, PRICES_AS_OF), SOURCE, offers))
    return regions


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with path.open(newline="") as file:
        yield from csv.DictReader(file)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m cloud.catalog_build", description="Makes the catalogue's file.")
    parser.add_argument("csv_dir", type=Path, help="folder of instance_types.csv, prices.csv and burstable.csv")
    parser.add_argument("out", type=Path, help="file to write, such as cloud/data/ec2.npz")
    options = parser.parse_args()
    try:
        types, offers = build(options.csv_dir, options.out)
    except (OSError, KeyError, ValueError) as error:
        sys.exit(f"Error: {type(error).__name__}: {error}")
    print(f"{options.out}: {types} types, {offers} offers, {options.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
