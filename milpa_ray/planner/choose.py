"""Which instance type, zone, capacity type and credit mode each waiting pod gets: all pods of a pass in one call.

Here the pods' wishes meet what the cloud offers: spot before on-demand where it is preferred and costs no more, the
zone among those that have the cheapest type, and an end to the search where enough was tried in vain. Which type is the
cheapest, ``selection`` says; why there is none, ``refusal``.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from milpa_ray.api.pod import Pod, PodSpec, SpotPolicy
from milpa_ray.limits import Limits
from milpa_ray.planner.balance import balance, emptiest
from milpa_ray.planner.catalogue import Catalogue
from milpa_ray.planner.fullness import NOTHING_FULL, Full
from milpa_ray.planner.refusal import SPOT_DEARER, Refusal, enough_tried, why_none
from milpa_ray.planner.request import Request, describes_instance, request_of
from milpa_ray.planner.selection import NONE, Selected, selector_of
from milpa_ray.planner.tries import tried_in_vain

_TRIES = {SpotPolicy.ALWAYS: (True,), SpotPolicy.PREFERRED: (True, False), SpotPolicy.NEVER: (False,)}
"""Capacity types (spot or not), the preferred one first."""
NO_DEFAULT = Refusal(
    "NoInstanceType",
    "the pod states neither instanceType nor resources, and server.yml has no nodes.defaultInstanceType: "
    "set one of them",
)


@dataclass(frozen=True, slots=True)
class Offers:
    """What the cloud offers at this moment. ``boot_image`` may be empty: the cloud's own default.

    ``capacity_tries`` and ``capacity_memory_s`` (seconds) as in ``Limits``.
    """

    catalogue: Catalogue
    default_instance_type: str = ""
    full: Full = NOTHING_FULL
    boot_image: str = ""
    capacity_tries: int = Limits().capacity_tries
    capacity_memory_s: int = Limits().capacity_memory_s


@dataclass(frozen=True, slots=True)
class Choice:
    """A launch that may be made.

    ``price`` in US dollars per hour, without the ``surcharge`` that the asked CPU is expected to cost beyond a
    burstable type's baseline. ``credits``: its CPU credit mode, ``standard`` or ``unlimited``; empty for types without
    credits. ``no_spot``: why spot, which was preferred, is not taken.
    """

    instance_type: str
    zone: str
    spot: bool
    price: float
    credits: str = ""
    surcharge: float = 0.0
    no_spot: Refusal | None = None

    @property
    def spot_failed(self) -> bool:
        """Whether spot was preferred and is not taken."""
        return self.no_spot is not None


@dataclass(frozen=True, slots=True)
class Try:
    """What comes of asking for one capacity type: ``found``, or the ``refusal``."""

    request: Request
    found: Selected
    refusal: Refusal | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """The try that counts for a pod, and why spot, which was preferred, is not taken."""

    taken: Try
    no_spot: Refusal | None = None


def choose(pods: Sequence[Pod], offers: Offers) -> list[Choice | Refusal]:
    """One choice or refusal per pod, in order. Equal requests of a call are spread evenly over zones."""
    answers: list[Choice | Refusal] = [NO_DEFAULT] * len(pods)
    placed: dict[object, Counter[str]] = defaultdict(Counter)
    wishes = [(place, requests_of(pod.spec, offers)) for place, pod in enumerate(pods)]
    results = iter(_tries([request for _, requests in wishes for request in requests], offers))
    for place, requests in wishes:
        if not requests:
            continue
        decision = _decide([next(results) for _ in requests], offers)
        taken, pod = decision.taken, pods[place]
        if taken.refusal is not None:
            answers[place] = taken.refusal
            continue
        counts = placed[pod.metadata.owner_uid or taken.request]
        zone = emptiest(zones_for(offers, taken.request, taken.found), counts, pod.name)
        counts[zone] += 1
        answers[place] = _choice(offers, decision, zone)
    return answers


def decide(spec: PodSpec, offers: Offers) -> Decision | None:
    """Which capacity type a pod gets, or why none; None when it says nothing of its instance and there is no
    default."""
    requests = requests_of(spec, offers)
    return _decide(_tries(requests, offers), offers) if requests else None


def spread_over_zones(spec: PodSpec, offers: Offers, present: Mapping[str, int], count: int) -> list[str] | Refusal:
    """Zones for ``count`` more pods of one spec: even over the zones that have the cheapest type for it at this moment,
    given how many are ``present`` in each zone."""
    decision = decide(spec, offers)
    if decision is None:
        return NO_DEFAULT
    taken = decision.taken
    return taken.refusal or balance(zones_for(offers, taken.request, taken.found), present, count)


def requests_of(spec: PodSpec, offers: Offers) -> list[Request]:
    """What is asked for a pod: one request per capacity type, the preferred one first. Empty when the pod says nothing
    of its instance, and there is no default."""
    if not _has_wish(spec, offers):
        return []
    return [request_of(spec, offers.default_instance_type, spot=spot) for spot in _TRIES[spec.spot.policy]]


def _tries(requests: Sequence[Request], offers: Offers) -> list[Try]:
    selected = selector_of(offers.catalogue).select_requests(requests, offers.full)
    return [_try(request, found, offers) for request, found in zip(requests, selected, strict=True)]


def _try(request: Request, found: Selected, offers: Offers) -> Try:
    """Ends the search where enough was tried: a region has thousands of places, and when the cloud is short of one
    capacity type the next thousand are full, too. A type that is asked for by name has a few zones only."""
    if found.row == NONE:
        return Try(request, found, why_none(offers.catalogue, request, offers.full))
    if not request.policy.named and len(offers.full.types) >= offers.capacity_tries:
        tried = tried_in_vain(offers.catalogue, request, offers.full)
        if tried >= offers.capacity_tries:
            return Try(request, found, enough_tried(request, tried, offers.capacity_memory_s))
    return Try(request, found)


def _decide(tries: Sequence[Try], offers: Offers) -> Decision:
    """Spot that is preferred is there to save money: it is taken where it costs no more, and where nothing else is to
    be had."""
    if len(tries) == 1:
        return Decision(tries[0])
    spot, on_demand = tries
    if spot.refusal is not None:
        return Decision(on_demand, spot.refusal.for_another())
    if on_demand.refusal is not None or spot.found.cost <= on_demand.found.cost:
        return Decision(spot)
    names = offers.catalogue.names
    dear = (
        f"spot costs ${spot.found.cost:.6g} an hour at least ({names[spot.found.row]}), "
        f"on demand ${on_demand.found.cost:.6g} ({names[on_demand.found.row]})"
    )
    return Decision(on_demand, Refusal(SPOT_DEARER, dear, temporary=True))


def zones_for(offers: Offers, request: Request, found: Selected) -> tuple[str, ...]:
    """Zones in which the selected type can be had at its price."""
    return selector_of(offers.catalogue).zones(request.policy, found.row, offers.full)


def _has_wish(spec: PodSpec, offers: Offers) -> bool:
    return bool(spec.instance_type or offers.default_instance_type or describes_instance(spec.resources))


def _choice(offers: Offers, decision: Decision, zone: str) -> Choice:
    catalogue, request, found = offers.catalogue, decision.taken.request, decision.taken.found
    return Choice(
        instance_type=catalogue.names[found.row],
        zone=zone,
        spot=request.policy.spot,
        price=selector_of(catalogue).price(request.policy, found.row, offers.full),
        credits=credits_of(catalogue, request, found),
        surcharge=found.surcharge,
        no_spot=decision.no_spot,
    )


def credits_of(catalogue: Catalogue, request: Request, found: Selected) -> str:
    """Credit mode in which the selected type is launched; empty when it has no credits."""
    if not catalogue.burstable[found.row]:
        return ""
    return "unlimited" if request.policy.sustained_cpu or found.surcharge > 0 else "standard"
