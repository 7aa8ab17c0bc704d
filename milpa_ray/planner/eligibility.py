"""Which instance types meet a request, which constraint rules the others out, and what each would cost.

The rules and the cost formula are here and nowhere else; ``selection`` makes tables of them, ``reasons`` evaluates
them for one request over the whole catalogue, for people who ask why.
"""

import fnmatch
import re
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache

import numpy as np

from milpa_ray.planner.catalogue import Catalogue, Flags, Floats, Ints
from milpa_ray.planner.fullness import NOTHING_FULL, Full
from milpa_ray.planner.request import Policy, Request

PARAVIRTUAL_FAMILIES = ("t1", "m1", "m2", "c1")
"""They boot paravirtual images only, and none is made any more."""


class Constraint(IntEnum):
    """Why a type is out, in the order in which it is told."""

    INSTANCE_TYPE = 0
    """``spec.instanceType`` names others."""
    PARAVIRTUAL = 1
    BARE_METAL = 2
    """Taken only when named."""
    PRICE = 3
    """None is known."""
    OFFERED = 4
    """No zone of the region has it."""
    ARCH = 5
    DEDICATED_CPU = 6
    GPU = 7
    GPU_NAME = 8
    MEMORY = 9
    CPU = 10
    """More than it has vCPUs."""
    BASELINE = 11
    """``sustainedCPU: false`` and more than its baseline."""
    ZONE = 12
    """The wished zone does not have it."""
    SPOT = 13
    """No spot price is known in the zones that are left."""
    CAPACITY = 14
    """The cloud had none a moment ago."""


@dataclass(frozen=True, eq=False, slots=True)
class Terms:
    """What holds for one policy, whatever the size asked for. Row i of every column is the catalogue's type i.

    ``price``: US dollars per hour, inf where no zone is open; ``surcharge``: per vCPU-hour above ``baseline``;
    ``cpu_limit`` and ``memory_limit`` (cores, MiB): the greatest request that fits; ``zones[i, z]``: zone
    ``zone_names[z]`` has it at that price. ``failed[i, c]``: constraint c rules it out.
    """

    zone_names: tuple[str, ...]
    zones: Flags
    price: Floats
    surcharge: Floats
    baseline: Floats
    cpu_limit: Floats
    memory_limit: Floats
    failed: Flags

    @property
    def fits(self) -> Flags:
        """Types that serve some size of request."""
        fits: Flags = np.logical_not(self.failed.any(axis=1))
        return fits


@dataclass(frozen=True, eq=False, slots=True)
class Verdicts:
    """One request against every type of a catalogue. Row i of every column is the catalogue's type i.

    ``price`` and ``surcharge`` (for the asked CPU) in US dollars per hour, ``cost`` their sum; price and cost are inf
    where no zone is open at a known price. ``reason`` is the first failed ``Constraint``, -1 for a type that fits;
    ``failed[i, c]`` has all of them. ``unlimited``: it would run in unlimited credit mode. ``zones[i, z]``: zone
    ``zone_names[z]`` has it at that price. ``order`` lists the types that fit, the choice first.
    """

    price: Floats
    surcharge: Floats
    cost: Floats
    unlimited: Flags
    failed: Flags
    reason: Ints
    zone_names: tuple[str, ...]
    zones: Flags
    order: Ints


def reasons(catalogue: Catalogue, request: Request, full: Full = NOTHING_FULL) -> Verdicts:
    """Per type: whether it fits the request and at which cost, or what rules it out."""
    of = terms(catalogue, request.policy, full)
    failed = of.failed.copy()
    failed[:, Constraint.MEMORY] = request.memory_mib > of.memory_limit
    beyond = request.cpu > of.cpu_limit
    beyond_vcpus = beyond & ((request.cpu > catalogue.vcpus) | ~catalogue.burstable)
    failed[:, Constraint.CPU] = beyond_vcpus
    failed[:, Constraint.BASELINE] = beyond & ~beyond_vcpus
    extra = of.surcharge * np.maximum(0.0, request.cpu - of.baseline)
    cost = of.price + extra
    fits = np.flatnonzero(~failed.any(axis=1))
    return Verdicts(
        price=of.price,
        surcharge=extra,
        cost=cost,
        unlimited=unlimited(catalogue, request.policy, extra),
        failed=failed,
        reason=np.where(failed.any(axis=1), failed.argmax(axis=1), -1),
        zone_names=of.zone_names,
        zones=of.zones,
        order=fits[np.lexsort((tie_rank(catalogue)[fits], of.price[fits], cost[fits]))],
    )


def unlimited(catalogue: Catalogue, policy: Policy, extra: Floats) -> Flags:
    """Which types run in unlimited credit mode: by wish, or because the asked CPU costs ``extra``."""
    if policy.sustained_cpu:
        return catalogue.burstable
    return catalogue.burstable & (extra > 0)


@lru_cache(maxsize=64)
def tie_rank(catalogue: Catalogue) -> Ints:
    """Position of each type when cost and price are equal: newer generation, more memory, name."""
    rank = np.empty(len(catalogue), dtype=np.int64)
    order = np.lexsort((np.array(catalogue.names), -catalogue.memory_mib, -catalogue.generation))
    rank[order] = np.arange(len(catalogue))
    return rank


def terms(catalogue: Catalogue, policy: Policy, full: Full = NOTHING_FULL) -> Terms:
    """The rules of a policy, applied to the catalogue."""
    failed = np.zeros((len(catalogue), len(Constraint)), dtype=np.bool_)
    failed[:, Constraint.PARAVIRTUAL] = np.isin(catalogue.family, PARAVIRTUAL_FAMILIES)
    failed[:, Constraint.PRICE] = ~(np.isfinite(catalogue.price_on_demand) & (catalogue.price_on_demand > 0))
    _by_name(catalogue, policy, failed)
    if not policy.named:
        failed[:, Constraint.ARCH] = catalogue.arch != policy.arch
        failed[:, Constraint.DEDICATED_CPU] = policy.dedicated_cpu & (catalogue.burstable | catalogue.flex)
        failed[:, Constraint.GPU] = catalogue.gpu_count < policy.gpus
        if policy.gpu_name:
            failed[:, Constraint.GPU_NAME] = ~_has_gpu(catalogue, policy.gpu_name)
    zone_names, zones, price = _places(catalogue, policy, full, failed)
    within_baseline = catalogue.burstable & (policy.sustained_cpu is False)
    cpu_limit = np.where(within_baseline, np.minimum(catalogue.baseline, catalogue.vcpus), catalogue.vcpus)
    anything = np.full(len(catalogue), np.inf)
    return Terms(
        zone_names=zone_names,
        zones=zones,
        price=price,
        surcharge=np.where(catalogue.burstable & ~within_baseline, catalogue.surcharge, 0.0),
        baseline=catalogue.baseline,
        cpu_limit=anything if policy.named else cpu_limit,
        memory_limit=anything if policy.named else catalogue.memory_mib.astype(np.float64),
        failed=failed,
    )


def _by_name(catalogue: Catalogue, policy: Policy, failed: Flags) -> None:
    """A pattern names bare metal only when it says so: ``c5*`` should not surprise with a c5.metal."""
    wanted = policy.instance_type
    if policy.named:
        failed[:, Constraint.INSTANCE_TYPE] = True
        if wanted in catalogue:
            failed[catalogue.index(wanted), Constraint.INSTANCE_TYPE] = False
        return
    if wanted:
        matches = re.compile(fnmatch.translate(wanted)).match
        failed[:, Constraint.INSTANCE_TYPE] = [matches(name) is None for name in catalogue.names]
    if "metal" not in wanted:
        failed[:, Constraint.BARE_METAL] = catalogue.bare_metal


def _has_gpu(catalogue: Catalogue, wanted: str) -> Flags:
    """``T4`` and ``nvidia-t4`` are the NVIDIA T4, and not the T4g."""
    key = gpu_key(wanted)
    names, of_row = np.unique(catalogue.gpu_name, return_inverse=True)
    known = [bool(name) and key in (gpu_key(name), gpu_key(name.partition(" ")[2])) for name in names.tolist()]
    return np.array(known, dtype=np.bool_)[of_row]


def gpu_key(name: str) -> str:
    """A GPU's name without case, spaces and signs."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _places(catalogue: Catalogue, policy: Policy, full: Full, failed: Flags) -> tuple[tuple[str, ...], Flags, Floats]:
    """Zone names, where each type can be had at its price, and that price (inf: nowhere). Fills in what failed.

    Where nobody knows a region's zones, any wish is taken at its word.
    """
    names, offered, zone_price = catalogue.zones, catalogue.offered, catalogue.price_spot_zone
    if not names:
        names = (policy.zone,)
        offered, zone_price = np.ones((len(catalogue), 1), dtype=np.bool_), catalogue.price_spot[:, None]
    if not policy.spot:
        zone_price = np.broadcast_to(catalogue.price_on_demand[:, None], offered.shape)
    wished = offered & np.array([not policy.zone or name == policy.zone for name in names])
    priced = wished & np.isfinite(zone_price) & (zone_price > 0)
    there = priced & ~_full(catalogue, policy, full, names)
    failed[:, Constraint.OFFERED] = ~offered.any(axis=1)
    failed[:, Constraint.ZONE] = offered.any(axis=1) & ~wished.any(axis=1)
    failed[:, Constraint.SPOT] = policy.spot & wished.any(axis=1) & ~priced.any(axis=1)
    failed[:, Constraint.CAPACITY] = priced.any(axis=1) & ~there.any(axis=1)
    price = np.where(there, zone_price, np.inf).min(axis=1)
    return names, there & (zone_price == price[:, None]), price


def _full(catalogue: Catalogue, policy: Policy, full: Full, zones: tuple[str, ...]) -> Flags:
    """``[i, z]``: the cloud had no type i in zone z a moment ago, for requests of this policy."""
    now = full.seen_by(spot=policy.spot, private_ip_only=policy.private_ip_only)
    closed = np.zeros((len(catalogue), len(zones)), dtype=np.bool_)
    column = {name: position for position, name in enumerate(zones)}
    for _, name, zone in now.types:
        if name in catalogue and zone in column:
            closed[catalogue.index(name), column[zone]] = True
    if now.families:
        closed |= np.isin(catalogue.family, [family for _, family in now.families])[:, None]
    for _, zone in now.zones:
        if zone in column:
            closed[:, column[zone]] = True
    return closed | now.spot
