"""The choice as a plain loop over the catalogue, one request and one type at a time: what ``selection`` must equal.

Written from the rules, shares nothing with the planner but the request and the formula's order of operations.
"""

import fnmatch
import math
from dataclasses import dataclass

from milpa_ray.planner.catalogue import Catalogue
from milpa_ray.planner.fullness import NOTHING_FULL, Full
from milpa_ray.planner.request import Policy, Request

Key = tuple[float, float, int, int, str]


@dataclass(frozen=True, slots=True)
class Kind:
    """An instance type with plain Python values."""

    name: str
    family: str
    generation: int
    vcpus: float
    memory_mib: int
    gpus: int
    gpu_name: str
    arch: str
    burstable: bool
    flex: bool
    baseline: float
    surcharge: float
    bare_metal: bool
    price: float
    spot_prices: dict[str, float]


class Loop:
    """A catalogue to loop over."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.kinds = [self._kind(catalogue, row) for row in range(len(catalogue))]
        self.zones_known = bool(catalogue.zones)

    @staticmethod
    def _kind(catalogue: Catalogue, row: int) -> Kind:
        zones = [z for z, there in zip(catalogue.zones, catalogue.offered[row].tolist(), strict=True) if there]
        spot = {z: float(catalogue.price_spot_zone[row, catalogue.zones.index(z)]) for z in zones}
        if not catalogue.zones:
            spot = {"": float(catalogue.price_spot[row])}
        return Kind(
            name=catalogue.names[row],
            family=str(catalogue.family[row]),
            generation=int(catalogue.generation[row]),
            vcpus=float(catalogue.vcpus[row]),
            memory_mib=int(catalogue.memory_mib[row]),
            gpus=int(catalogue.gpu_count[row]),
            gpu_name=str(catalogue.gpu_name[row]),
            arch=str(catalogue.arch[row]),
            burstable=bool(catalogue.burstable[row]),
            flex=bool(catalogue.flex[row]),
            baseline=float(catalogue.baseline[row]),
            surcharge=float(catalogue.surcharge[row]),
            bare_metal=bool(catalogue.bare_metal[row]),
            price=float(catalogue.price_on_demand[row]),
            spot_prices=spot,
        )

    def choose(self, request: Request, full: Full = NOTHING_FULL) -> tuple[int, float, float]:
        """Row, cost and surcharge of the cheapest type; (-1, inf, 0) for none."""
        best: tuple[Key, int, float] | None = None
        for row, kind in enumerate(self.kinds):
            if not allowed(kind, request.policy) or not large_enough(kind, request):
                continue
            price = self.price(kind, request.policy, full)
            if price == math.inf:
                continue
            surcharge = 0.0
            if kind.burstable and request.policy.sustained_cpu is not False:
                surcharge = kind.surcharge * max(0.0, request.cpu - kind.baseline)
            key = (price + surcharge, price, -kind.generation, -kind.memory_mib, kind.name)
            if best is None or key < best[0]:
                best = key, row, surcharge
        return (best[1], best[0][0], best[2]) if best else (-1, math.inf, 0.0)

    def price(self, kind: Kind, policy: Policy, full: Full) -> float:
        """The lowest in the zones that are open; inf for none."""
        wished = [policy.zone] if policy.zone else list(kind.spot_prices)
        prices = [math.inf]
        for zone in wished:
            if zone not in kind.spot_prices and self.zones_known:
                continue
            price = kind.spot_prices.get(zone, kind.spot_prices.get("", math.nan)) if policy.spot else kind.price
            known = math.isfinite(kind.price) and kind.price > 0 and math.isfinite(price) and price > 0
            if known and not closed(kind, zone, policy, full):
                prices.append(price)
        return min(prices)


def closed(kind: Kind, zone: str, policy: Policy, full: Full) -> bool:
    return (
        (policy.spot, kind.name, zone) in full.types
        or (policy.spot, kind.family) in full.families
        or (policy.spot and full.spot)
        or (policy.private_ip_only, zone) in full.zones
    )


def allowed(kind: Kind, policy: Policy) -> bool:
    """Whether the type may serve requests of this policy at all."""
    wanted = policy.instance_type
    if kind.family in ("t1", "m1", "m2", "c1"):
        return False
    if wanted and "*" not in wanted and "?" not in wanted:
        return kind.name == wanted
    return (
        (not wanted or fnmatch.fnmatchcase(kind.name, wanted))
        and (not kind.bare_metal or "metal" in wanted)
        and kind.arch == policy.arch
        and not (policy.dedicated_cpu and (kind.burstable or kind.flex))
        and kind.gpus >= policy.gpus
        and (not policy.gpu_name or policy.gpu_name in (kind.gpu_name, kind.gpu_name.partition(" ")[2]))
    )


def large_enough(kind: Kind, request: Request) -> bool:
    if request.policy.named:
        return True
    limit = kind.vcpus
    if kind.burstable and request.policy.sustained_cpu is False:
        limit = min(limit, kind.baseline)
    return request.cpu <= limit and request.memory_mib <= kind.memory_mib
