"""Makes small catalogues, row by row."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from milpa_ray.planner.catalogue import Catalogue

ZONES = ("r1a", "r1b", "r1c")


def row(name: str, **values: Any) -> dict[str, Any]:
    """A type with everything defaulted but what a test is about. ``spot`` is one price per zone."""
    return {
        "name": name,
        "generation": 5,
        "vcpus": 2.0,
        "memory_mib": 4096,
        "gpu_count": 0,
        "gpu_name": "",
        "gpu_memory_mib": 0,
        "arch": "amd64",
        "burstable": False,
        "flex": False,
        "baseline": values.get("vcpus", 2.0),
        "surcharge": 0.0,
        "bare_metal": False,
        "price": 0.1,
        "spot": (0.03,) * len(ZONES),
        "offered": (True,) * len(ZONES),
    } | values


def make_catalogue(rows: list[dict[str, Any]], zones: tuple[str, ...] = ZONES) -> Catalogue:
    """Rows sorted by name; zones beyond ``zones`` are cut off."""
    rows = sorted(rows, key=lambda values: str(values["name"]))

    def column(key: str, kind: type) -> NDArray[Any]:
        return np.array([values[key] for values in rows], dtype=kind)

    offered = np.array([values["offered"] for values in rows], dtype=np.bool_).reshape(len(rows), -1)[:, : len(zones)]
    spot = np.array([values["spot"] for values in rows], dtype=np.float64).reshape(len(rows), -1)
    burstable = column("burstable", np.bool_)
    return Catalogue(
        region="r1",
        names=tuple(values["name"] for values in rows),
        zones=zones,
        family=np.array([values["name"].partition(".")[0] for values in rows]),
        generation=column("generation", np.int64),
        vcpus=column("vcpus", np.float64),
        memory_mib=column("memory_mib", np.int64),
        gpu_count=column("gpu_count", np.int64),
        gpu_name=np.array([values["gpu_name"] for values in rows]),
        gpu_memory_mib=column("gpu_memory_mib", np.int64),
        arch=np.array([values["arch"] for values in rows]),
        burstable=burstable,
        flex=column("flex", np.bool_),
        baseline=column("baseline", np.float64),
        surcharge=np.where(burstable, column("surcharge", np.float64), 0.0),
        unlimited_by_default=burstable,
        bare_metal=column("bare_metal", np.bool_),
        current_generation=np.ones(len(rows), dtype=np.bool_),
        price_on_demand=column("price", np.float64),
        price_spot=spot[:, 0],
        price_spot_zone=np.where(offered, spot[:, : len(zones)], np.nan),
        offered=offered,
    )
