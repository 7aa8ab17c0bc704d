"""Why no instance type fits a request: the constraint that binds, and the nearest value that would fit.

For people: one sentence for a pod's status and its event. What rules out which type is ``eligibility``'s.
"""

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from milpa_ray.api.schema import suggest
from milpa_ray.planner.catalogue import Catalogue, Flags, Floats, Ints
from milpa_ray.planner.eligibility import Constraint, Verdicts, reasons
from milpa_ray.planner.fullness import NOTHING_FULL, Full
from milpa_ray.planner.request import Request
from milpa_ray.planner.shortfall import has_gpus, shortfall

NO_CAPACITY = "InsufficientInstanceCapacity"
"""Reason of a Waiting pod for which all that would fit was full a moment ago."""
NO_TYPE_FITS = "NoInstanceTypeFits"
UNKNOWN_TYPE = "UnknownInstanceType"
UNKNOWN_ZONE = "UnknownZone"
NO_SPOT = "NoSpot"
SPOT_DEARER = "SpotCostsMore"
"""Why preferred spot is not taken though there is some."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why none was found, for the user. ``temporary``: it may be otherwise in a few minutes. ``again``: the end of the
    message, when it says what comes next for a pod that waits."""

    reason: str
    message: str
    temporary: bool = False
    again: str = ""

    def for_another(self) -> "Refusal":
        """Without what comes next, as the pod does not wait: it gets something else."""
        return replace(self, message=self.message.removesuffix(self.again), again="")


@lru_cache(maxsize=1024)
def why_none(catalogue: Catalogue, request: Request, full: Full = NOTHING_FULL) -> Refusal:
    """Why ``request`` gets nothing. To be asked only when that is so."""
    verdicts = reasons(catalogue, request, full)
    unknown = _unknown(catalogue, request, verdicts)
    if unknown is not None:
        return unknown
    failures = verdicts.failed.sum(axis=1)
    only = failures == 1
    full_rows = np.flatnonzero(only & verdicts.failed[:, Constraint.CAPACITY])
    if len(full_rows):
        return _no_capacity(request, len(full_rows))
    near = [
        text
        for constraint in _ORDER
        if len(rows := np.flatnonzero(only & _fails(verdicts, constraint)))
        and (text := _nearest(catalogue, request, constraint, rows, full))
    ]
    if not near:
        near = [_closest_type(catalogue, request, verdicts)]
    what = f"{request.policy.instance_type} " if request.policy.instance_type else ""
    spot = "spot " if request.policy.spot else ""
    reason = NO_SPOT if len(only) and _only_spot(verdicts, only) else NO_TYPE_FITS
    return Refusal(reason, f"no {spot}{what}instance type fits: " + "; or ".join(near[:_MOST_TEXTS]))


_MOST_TEXTS = 3
_ORDER = (
    Constraint.MEMORY,
    Constraint.CPU,
    Constraint.BASELINE,
    Constraint.GPU,
    Constraint.GPU_NAME,
    Constraint.ZONE,
    Constraint.SPOT,
    Constraint.DEDICATED_CPU,
    Constraint.INSTANCE_TYPE,
    Constraint.BARE_METAL,
    Constraint.ARCH,
)
"""What can be asked for otherwise, in the order in which it is proposed."""
_SIZES = frozenset({Constraint.MEMORY, Constraint.CPU, Constraint.BASELINE, Constraint.BARE_METAL})
"""Wishes that are easier to change than the others."""


def _unknown(catalogue: Catalogue, request: Request, verdicts: Verdicts) -> Refusal | None:
    """Names that mean nothing in this region."""
    policy, region = request.policy, catalogue.region
    wanted, named = policy.instance_type, ~verdicts.failed[:, Constraint.INSTANCE_TYPE]
    if policy.named and not np.any(named & ~verdicts.failed[:, Constraint.OFFERED]):
        hint = suggest(wanted, catalogue.names)
        return Refusal(
            UNKNOWN_TYPE,
            f"instance type {wanted!r} is not offered in {region}: name another in spec.instanceType{hint}",
        )
    if wanted and not named.any():
        return Refusal(UNKNOWN_TYPE, f"no instance type of {region} matches {wanted!r}: mend spec.instanceType")
    if policy.named and verdicts.failed[catalogue.index(wanted), Constraint.PARAVIRTUAL]:
        return Refusal(
            UNKNOWN_TYPE,
            f"{wanted} boots paravirtual images only, and there are none any more: name a newer type in "
            "spec.instanceType",
        )
    if policy.zone and policy.zone not in verdicts.zone_names:
        hint = f"set spec.placement.availabilityZone to one of {', '.join(verdicts.zone_names)}"
        return Refusal(UNKNOWN_ZONE, f"{region} has no zone {policy.zone!r}: {hint}")
    if policy.named and verdicts.failed[catalogue.index(wanted), Constraint.ZONE]:
        zones = ", ".join(catalogue.zones_of(wanted))
        return Refusal(
            UNKNOWN_ZONE,
            f"{wanted} is not offered in zone {policy.zone!r}: set spec.placement.availabilityZone to one of {zones}",
        )
    return None


def _no_capacity(request: Request, types: int) -> Refusal:
    policy = request.policy
    spot, zone = "spot " if policy.spot else "", policy.zone or "any zone"
    what = policy.named or f"instance of the {types} types that fit"
    return _temporary(f"the cloud had no {spot}{what} in {zone} a moment ago", "; trying again shortly")


def enough_tried(request: Request, tried: int, memory_s: int) -> Refusal:
    """``tried`` places that fit were full within the last ``memory_s`` seconds, and no more are tried for now."""
    spot, zone = "spot " if request.policy.spot else "", request.policy.zone or "any zone"
    return _temporary(
        f"the cloud had no {spot}instance in {zone}: {tried} pairs of type and zone that fit were tried in vain",
        f"; trying again {memory_s} s after the first of them",
    )


def _temporary(cause: str, again: str) -> Refusal:
    return Refusal(NO_CAPACITY, cause + again, temporary=True, again=again)


def _only_spot(verdicts: Verdicts, only: np.ndarray) -> bool:
    return bool(np.any(only & verdicts.failed[:, Constraint.SPOT]))


def _fails(verdicts: Verdicts, constraint: Constraint) -> Flags:
    """Types that lack CPU lack it by their vCPUs or by their baseline: what the most is, both tell together."""
    failed: Flags = verdicts.failed[:, constraint]
    return failed | verdicts.failed[:, Constraint.BASELINE] if constraint == Constraint.CPU else failed


def _nearest(catalogue: Catalogue, request: Request, constraint: Constraint, rows: Ints, full: Full) -> str:
    """What of one constraint would fit, ``rows`` being the types that fail nothing else; empty when nothing would."""
    policy = request.policy
    if constraint in (Constraint.MEMORY, Constraint.CPU, Constraint.GPU):
        return _largest(catalogue, request, constraint, rows)
    if constraint == Constraint.ZONE:
        return _other_zones(catalogue, request, full)
    if constraint == Constraint.INSTANCE_TYPE and policy.named:
        return ""  # The others were not compared with anything: a name decides alone.
    cheapest = catalogue.names[int(rows[np.argmin(catalogue.price_on_demand[rows])])]
    known = sorted({str(name) for name in catalogue.gpu_name[rows] if name})
    of_that_count = " of that count" if policy.gpus else ""
    texts = {
        Constraint.BASELINE: f"{cheapest} would without 'sustainedCPU: false'",
        Constraint.GPU_NAME: f"there is no GPU {policy.gpu_name!r}{of_that_count}; there is {', '.join(known)}",
        Constraint.SPOT: f"no spot price is known for {cheapest}"
        + (f" and {len(rows) - 1} others" if len(rows) > 1 else ""),
        Constraint.DEDICATED_CPU: f"{cheapest} would without dedicatedCPU",
        Constraint.INSTANCE_TYPE: f"{cheapest} would, but spec.instanceType does not match it",
        Constraint.BARE_METAL: f"bare metal is taken only when named, such as {cheapest}",
        Constraint.ARCH: f"{cheapest} would with arch {catalogue.arch[catalogue.index(cheapest)]}",
    }
    return texts.get(constraint, "")


def _other_zones(catalogue: Catalogue, request: Request, full: Full) -> str:
    """Asked anew, as a type that the wished zone lacks may have no spot price, or be full, where it is."""
    anywhere = reasons(catalogue, replace(request, policy=replace(request.policy, zone="")), full)
    zones = [name for zone, name in enumerate(anywhere.zone_names) if anywhere.zones[anywhere.order, zone].any()]
    return f"zone {request.policy.zone} has none that fits; {', '.join(zones)} would" if zones else ""


def _largest(catalogue: Catalogue, request: Request, constraint: Constraint, rows: Ints) -> str:
    within_baseline = catalogue.burstable & (request.policy.sustained_cpu is False)
    cpu = np.where(within_baseline, catalogue.baseline, catalogue.vcpus)
    columns: dict[Constraint, tuple[str, Floats | Ints, float, str]] = {
        Constraint.MEMORY: ("largest memory", catalogue.memory_mib / 1024, request.memory_mib / 1024, " GiB"),
        Constraint.CPU: ("most CPU", cpu, request.cpu, ""),
        Constraint.GPU: ("most GPUs", catalogue.gpu_count, request.policy.gpus, ""),
    }
    label, column, asked, unit = columns[constraint]
    best = int(rows[np.argmax(column[rows])])
    rest = "" if len(_asked(request)) <= 1 else " with the rest as asked"
    return (
        f"{label} in {catalogue.region}{rest} is {column[best]:.10g}{unit} ({catalogue.names[best]}), "
        f"{asked:.10g}{unit} was asked"
    )


def _asked(request: Request) -> list[str]:
    """The fields by which the request limits the choice."""
    policy = request.policy
    fields = {
        "cpu": request.cpu,
        "memory": request.memory_mib,
        "gpu": policy.gpus,
        "gpuName": policy.gpu_name,
        "dedicatedCPU": policy.dedicated_cpu,
        "sustainedCPU": policy.sustained_cpu is False,
        "instanceType": policy.instance_type,
        "availabilityZone": policy.zone,
        "spot": policy.spot,
    }
    return [name for name, value in fields.items() if value]


def _closest_type(catalogue: Catalogue, request: Request, verdicts: Verdicts) -> str:
    """When no single wish is to blame: the type that fails the fewest, sizes before kinds, and what it fails."""
    if not len(catalogue):
        return f"nothing is offered in {catalogue.region}"
    weight = verdicts.failed @ np.array([1 if constraint in _SIZES else 2 for constraint in Constraint])
    nearest = np.flatnonzero(weight == weight.min())
    best = int(nearest[np.lexsort((-catalogue.vcpus[nearest], -catalogue.memory_mib[nearest]))[0]])
    size = f"{catalogue.vcpus[best]:.10g} CPU, {catalogue.memory_mib[best] / 1024:.10g} GiB"
    if gpus := has_gpus(catalogue, best):
        size += f", {gpus}"
    lacking = np.flatnonzero(verdicts.failed[best]).tolist()
    texts = [shortfall(catalogue, request, best, Constraint(constraint)) for constraint in lacking]
    return f"nearest in {catalogue.region} is {catalogue.names[best]} ({size}), but: {'; '.join(texts)}"
