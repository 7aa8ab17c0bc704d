"""Which instance type and zone a waiting pod gets: all pods of a pass in one call.

Today a pod names its type, or gets the default; the zone is the pod's wish, else one of the type's zones, spread by
the pod's name. A type and zone whose launch failed a short while ago is avoided.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

from milpa_ray.api.pod import Pod, SpotPolicy
from milpa_ray.planner.catalogue import Catalogue

NO_CAPACITY = "InsufficientInstanceCapacity"
"""Reason of a Waiting pod for which all that would fit was full a moment ago."""


@dataclass(frozen=True, slots=True)
class Offers:
    """What the cloud offers at this moment.

    ``full`` holds (spot, instance type, zone) triples whose launch failed lately. ``boot_image`` may be empty: the
    cloud's own default.
    """

    catalogue: Catalogue
    default_instance_type: str = ""
    full: frozenset[tuple[bool, str, str]] = frozenset()
    boot_image: str = ""


@dataclass(frozen=True, slots=True)
class Choice:
    """A launch that may be made. ``price`` in US dollars per hour."""

    instance_type: str
    zone: str
    spot: bool
    price: float


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why none was found, for the user. ``temporary``: it may be otherwise in a few minutes."""

    reason: str
    message: str
    temporary: bool = False


def choose(pods: Sequence[Pod], offers: Offers) -> list[Choice | Refusal]:
    """One choice or refusal per pod, in order."""
    return [_choose_one(pod, offers) for pod in pods]


def _choose_one(pod: Pod, offers: Offers) -> Choice | Refusal:
    wanted = pod.spec.instance_type or offers.default_instance_type
    if not wanted:
        return Refusal(
            "NoInstanceType",
            "the pod names no instanceType and server.yml has no nodes.defaultInstanceType: set one of them",
        )
    zones = offers.catalogue.zones_of(wanted) if wanted in offers.catalogue else ()
    if not zones:
        return Refusal(
            "UnknownInstanceType",
            f"instance type {wanted!r} is not offered in {offers.catalogue.region}: name another in spec.instanceType",
        )
    zone = pod.spec.placement.availability_zone
    if zone and zone not in zones:
        return Refusal(
            "UnknownZone",
            f"{wanted} is not offered in zone {zone!r}: set spec.placement.availabilityZone to one of "
            + ", ".join(zones),
        )
    spots = {
        SpotPolicy.ALWAYS: (True,),
        SpotPolicy.PREFERRED: (True, False),
        SpotPolicy.NEVER: (False,),
    }[pod.spec.spot.policy]
    for spot in spots:
        price = offers.catalogue.price(wanted, spot=spot)
        if not math.isfinite(price) or price <= 0:
            continue
        for candidate in (zone,) if zone else _spread(pod.name, zones):
            if (spot, wanted, candidate) not in offers.full:
                return Choice(wanted, candidate, spot, price)
    return Refusal(
        NO_CAPACITY,
        f"the cloud had no {'spot ' if spots == (True,) else ''}{wanted} in {zone or 'any zone'} a moment ago; "
        "trying again shortly",
        temporary=True,
    )


def _spread(name: str, zones: tuple[str, ...]) -> tuple[str, ...]:
    """The zones, starting at one that the pod's name picks."""
    start = hashlib.blake2b(name.encode(), digest_size=2).digest()[0] % len(zones)
    return zones[start:] + zones[:start]
