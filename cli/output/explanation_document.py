"""An explanation for programs: everything that it holds, with names and units as in the API."""

from typing import TYPE_CHECKING

from cli.output.explanation import Explained
from cli.output.objects import Document

if TYPE_CHECKING:
    from milpa_ray.planner.explain import Cost, TypeVerdict
    from milpa_ray.planner.refusal import Refusal
    from milpa_ray.planner.request import Request

DIGITS = 10
"""Decimals of a sum: what floating point adds behind them says nothing."""
NEXT = 5


def document(item: Explained) -> Document:
    """The whole explanation. Money is in US dollars per hour where nothing else is said; null where there is none.

    ``chosen``, ``next`` (the five after it) and ``others``: each instance type of the region is in one of them.
    """
    from milpa_ray.planner.explain import (
        HOURS_PER_MONTH,
        VOLUME_PRICE_REGION,
        VOLUME_TYPE,
        VOLUME_USD_PER_GIB_MONTH,
    )

    found, subject = item.explanation, item.subject
    types = [_type(verdict) for verdict in (*found.fitting, *found.out)]
    ahead = 1 + NEXT if found.chosen else 0
    following = min(ahead, len(found.fitting))
    return {
        "kind": "Explanation",
        "apiVersion": "v1",
        "object": {"kind": subject.kind, "name": subject.name} if subject.label else None,
        "replicas": subject.pods,
        "region": item.region,
        "pricesAsOf": item.prices_as_of,
        "pricesAgeDays": item.age_days,
        "pricesOld": item.old,
        "pricesFrom": item.file or item.prices_from,
        "request": _request(found.request) if found.request else None,
        "byDefault": found.by_default,
        "ignored": list(found.ignored),
        "fits": found.chosen is not None,
        "chosen": types[0] if found.chosen else None,
        "next": types[1:following],
        "others": types[following:],
        "refusal": _refusal(item, found.refusal),
        "noSpot": _refusal(item, found.no_spot),
        "volume": {
            "gib": found.volume_gib,
            "type": VOLUME_TYPE,
            "usdPerGiBMonth": VOLUME_USD_PER_GIB_MONTH,
            "priceOfRegion": VOLUME_PRICE_REGION,
        },
        "hoursPerMonth": HOURS_PER_MONTH,
    }


def _request(request: "Request") -> Document:
    policy = request.policy
    return {
        "cpu": request.cpu,
        "memoryMiB": request.memory_mib,
        "gpu": policy.gpus,
        "gpuName": policy.gpu_name,
        "dedicatedCPU": policy.dedicated_cpu,
        "sustainedCPU": policy.sustained_cpu,
        "arch": None if policy.named else policy.arch,
        "instanceType": policy.instance_type,
        "availabilityZone": policy.zone,
        "privateIPOnly": policy.private_ip_only,
        "spot": policy.spot,
    }


def _refusal(item: Explained, refusal: "Refusal | None") -> Document | None:
    if refusal is None:
        return None
    return {"reason": refusal.reason, "message": item.said(refusal.message), "temporary": refusal.temporary}


def _type(found: "TypeVerdict") -> Document:
    return {
        "instanceType": found.name,
        "fits": found.fits,
        "vcpus": found.vcpus,
        "memoryMiB": found.memory_mib,
        "gpus": found.gpus,
        "gpuName": found.gpu_name,
        "arch": found.arch,
        "sharedCPU": found.shared_cpu,
        "baselineCPU": found.baseline,
        "cpuCredits": found.credits,
        "zones": [zone for zone in found.zones if zone],
        "priceOnDemand": found.price_on_demand,
        "price": found.price,
        "cost": _cost(found.cost) if found.cost else None,
        "reasons": [
            {"constraint": reason.constraint.name.lower(), "message": reason.message} for reason in found.shortfalls
        ],
    }


def _cost(cost: "Cost") -> Document:
    return {
        "instance": round(cost.instance, DIGITS),
        "surcharge": round(cost.surcharge, DIGITS),
        "volume": round(cost.volume, DIGITS),
        "publicIPv4": round(cost.public_ipv4, DIGITS),
        "total": round(cost.total, DIGITS),
        "totalPerMonth": round(cost.month, DIGITS),
    }
