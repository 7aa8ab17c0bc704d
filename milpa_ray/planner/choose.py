"""Which instance type, zone, capacity type and credit mode each waiting pod gets: all pods of a pass in one call.

Here the pods' wishes meet what the cloud offers: spot before on-demand where it is preferred, and the zone among those
that have the cheapest type. Which type that is, ``selection`` says; why there is none, ``refusal``.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from milpa_ray.api.pod import Pod, PodSpec, SpotPolicy
from milpa_ray.planner.balance import balance, emptiest
from milpa_ray.planner.catalogue import Catalogue
from milpa_ray.planner.fullness import NOTHING_FULL, Full
from milpa_ray.planner.refusal import Refusal, why_none
from milpa_ray.planner.request import Request, describes_instance, request_of
from milpa_ray.planner.selection import NONE, Selected, selector_of

_TRIES = {SpotPolicy.ALWAYS: (True,), SpotPolicy.PREFERRED: (True, False), SpotPolicy.NEVER: (False,)}
"""Capacity types (spot or not), the preferred one first."""
NO_DEFAULT = Refusal(
    "NoInstanceType",
    "the pod states neither instanceType nor resources, and server.yml has no nodes.defaultInstanceType: "
    "set one of them",
)


@dataclass(frozen=True, slots=True)
class Offers:
    """What the cloud offers at this moment. ``boot_image`` may be empty: the cloud's own default."""

    catalogue: Catalogue
    default_instance_type: str = ""
    full: Full = NOTHING_FULL
    boot_image: str = ""


@dataclass(frozen=True, slots=True)
class Choice:
    """A launch that may be made.

    ``price`` in US dollars per hour, without the ``surcharge`` that the asked CPU is expected to cost beyond a
    burstable type's baseline. ``credits``: its CPU credit mode, ``standard`` or ``unlimited``; empty for types without
    credits. ``spot_failed``: spot was preferred and there is none.
    """

    instance_type: str
    zone: str
    spot: bool
    price: float
    credits: str = ""
    surcharge: float = 0.0
    spot_failed: bool = False


def choose(pods: Sequence[Pod], offers: Offers) -> list[Choice | Refusal]:
    """One choice or refusal per pod, in order. Equal requests of a call are spread evenly over zones."""
    answers: list[Choice | Refusal] = [NO_DEFAULT] * len(pods)
    placed: dict[object, Counter[str]] = defaultdict(Counter)
    open_places = [place for place, pod in enumerate(pods) if _has_wish(pod.spec, offers)]
    for attempt in range(max(map(len, _TRIES.values()))):
        tried = [place for place in open_places if attempt < len(_TRIES[pods[place].spec.spot.policy])]
        requests = [_request(pods[place].spec, offers, attempt) for place in tried]
        selected = selector_of(offers.catalogue).select_requests(requests, offers.full)
        open_places = []
        for place, request, found in zip(tried, requests, selected, strict=True):
            if found.row == NONE:
                answers[place] = why_none(offers.catalogue, request, offers.full)
                open_places.append(place)
                continue
            pod = pods[place]
            counts = placed[pod.metadata.owner_uid or request]
            zone = emptiest(zones_for(offers, request, found), counts, pod.name)
            counts[zone] += 1
            answers[place] = _choice(offers, request, found, zone, attempt)
    return answers


def spread_over_zones(spec: PodSpec, offers: Offers, present: Mapping[str, int], count: int) -> list[str] | Refusal:
    """Zones for ``count`` more pods of one spec: even over the zones that have the cheapest type for it at this moment,
    given how many are ``present`` in each zone."""
    answer: Refusal = NO_DEFAULT
    for request in requests_of(spec, offers):
        found = selector_of(offers.catalogue).select_one(request, offers.full)
        if found.row != NONE:
            return balance(zones_for(offers, request, found), present, count)
        answer = why_none(offers.catalogue, request, offers.full)
    return answer


def requests_of(spec: PodSpec, offers: Offers) -> list[Request]:
    """What is tried for a pod, in this order: the first that anything fits counts. Empty when the pod says nothing of
    its instance, and there is no default."""
    attempts = range(len(_TRIES[spec.spot.policy]) if _has_wish(spec, offers) else 0)
    return [_request(spec, offers, attempt) for attempt in attempts]


def zones_for(offers: Offers, request: Request, found: Selected) -> tuple[str, ...]:
    """Zones in which the selected type can be had at its price."""
    return selector_of(offers.catalogue).zones(request.policy, found.row, offers.full)


def _has_wish(spec: PodSpec, offers: Offers) -> bool:
    return bool(spec.instance_type or offers.default_instance_type or describes_instance(spec.resources))


def _request(spec: PodSpec, offers: Offers, attempt: int) -> Request:
    return request_of(spec, offers.default_instance_type, spot=_TRIES[spec.spot.policy][attempt])


def _choice(offers: Offers, request: Request, found: Selected, zone: str, attempt: int) -> Choice:
    catalogue = offers.catalogue
    return Choice(
        instance_type=catalogue.names[found.row],
        zone=zone,
        spot=request.policy.spot,
        price=selector_of(catalogue).price(request.policy, found.row, offers.full),
        credits=credits_of(catalogue, request, found),
        surcharge=found.surcharge,
        spot_failed=attempt > 0,
    )


def credits_of(catalogue: Catalogue, request: Request, found: Selected) -> str:
    """Credit mode in which the selected type is launched; empty when it has no credits."""
    if not catalogue.burstable[found.row]:
        return ""
    return "unlimited" if request.policy.sustained_cpu or found.surcharge > 0 else "standard"
