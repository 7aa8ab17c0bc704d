"""What waiting pods get: type, zone, capacity type and credit mode, from their specs and what is full."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from cloud.catalog import load_catalog
from milpa_ray.api.pod import PlacementSpec, Pod, PodSpot, ResourceSpec, SpotPolicy
from milpa_ray.planner.choose import Choice, Offers, choose, spread_over_zones
from milpa_ray.planner.fullness import Full
from milpa_ray.planner.refusal import (
    NO_CAPACITY,
    NO_SPOT,
    NO_TYPE_FITS,
    SPOT_DEARER,
    UNKNOWN_TYPE,
    UNKNOWN_ZONE,
    Refusal,
)
from tests.planner.catalogues import ZONES, make_catalogue, row
from tests.planner.factories import make_pod

REAL = Offers(load_catalog("us-east-1"), "t3.nano")
SMALL = Offers(
    make_catalogue(
        [
            row(
                "t3.small", burstable=True, baseline=0.4, surcharge=0.05, memory_mib=2048, price=0.02, spot=(0.01,) * 3
            ),
            row("c5.large", price=0.085, spot=(0.04, 0.03, 0.03), offered=(True, True, True)),
            row("m5.large", price=0.1, spot=(0.02, 0.09, 0.05), offered=(True, True, False)),
            row("c5.metal", vcpus=96.0, memory_mib=196608, price=4.0, bare_metal=True),
            row("m1.small", price=0.01, generation=1),
        ]
    ),
    "t3.small",
)


def pod(policy: SpotPolicy = SpotPolicy.NEVER, zone: str = "", instance_type: str = "", **asked: Any) -> Pod:
    """A waiting pod; ``asked`` are its resources by their names in manifests."""
    return make_pod(
        instance_type=instance_type,
        spot=PodSpot(policy=policy),
        placement=PlacementSpec(availability_zone=zone),
        resources=ResourceSpec.model_validate(asked),
    )


def one(asking: Pod, offers: Offers = SMALL) -> Choice:
    answer = choose([asking], offers)[0]
    assert isinstance(answer, Choice), answer
    return answer


def none(asking: Pod, offers: Offers = SMALL) -> Refusal:
    answer = choose([asking], offers)[0]
    assert isinstance(answer, Refusal), answer
    return answer


@pytest.mark.parametrize(
    ("asking", "name", "price", "credits_mode"),
    [
        (pod(cpu="0.1"), "t3a.nano", 0.0047, "standard"),
        (pod(cpu="2", memory="2Gi", dedicatedCPU=True), "c6a.large", 0.0765, ""),
        (pod(cpu="150m", memory="400Mi"), "t3a.nano", 0.0047, "unlimited"),
        (pod(cpu="0.1", sustainedCPU=True), "t3a.nano", 0.0047, "unlimited"),
        (pod(cpu="0.15", sustainedCPU=False), "t3a.micro", 0.0094, "standard"),
        (pod(gpu="1", gpuName="T4"), "g4dn.xlarge", 0.526, ""),
        (pod(gpu="4"), "g4dn.12xlarge", 3.912, ""),
        (pod(arch="arm64"), "t4g.nano", 0.0042, "standard"),
        (pod(volumeSize="60Gi"), "t3.nano", 0.0052, "standard"),
        (pod(), "t3.nano", 0.0052, "standard"),
        (pod(instance_type="t4g.nano"), "t4g.nano", 0.0042, "standard"),
        (pod(instance_type="c5*", cpu="3"), "c5a.xlarge", 0.154, ""),
    ],
)
def test_what_the_real_catalogue_gives(asking: Pod, name: str, price: float, credits_mode: str) -> None:
    choice = one(asking, REAL)
    assert (choice.instance_type, choice.price, choice.credits) == (name, price, credits_mode)
    assert choice.zone in REAL.catalogue.zones_of(name)
    assert not choice.spot


def test_a_named_type_wins_over_resources_but_keeps_the_wished_credit_mode() -> None:
    choice = one(pod(instance_type="t3.small", cpu="64", memory="1Ti", gpu="3", sustainedCPU=True))
    assert (choice.instance_type, choice.credits, choice.surcharge) == ("t3.small", "unlimited", 0.0)
    assert one(pod(instance_type="t3.small", cpu="2")).credits == "standard"


def test_the_surcharge_is_told_beside_the_price() -> None:
    choice = one(pod(cpu="1"))
    assert (choice.instance_type, choice.price) == ("t3.small", 0.02)
    assert choice.surcharge == pytest.approx(0.05 * 0.6)


def test_spot_is_ranked_by_the_zones_price_and_runs_where_it_is_lowest() -> None:
    for name in ("a", "b", "c"):
        asking = pod(SpotPolicy.ALWAYS, dedicatedCPU=True)
        choice = one(asking.model_copy(update={"metadata": asking.metadata.model_copy(update={"name": name})}))
        assert (choice.instance_type, choice.zone, choice.spot, choice.price) == ("m5.large", ZONES[0], True, 0.02)
    choice = one(pod(SpotPolicy.ALWAYS, ZONES[1], dedicatedCPU=True))
    assert (choice.instance_type, choice.zone, choice.price) == ("c5.large", ZONES[1], 0.03)


def test_a_full_zone_gives_the_next_zone_and_full_zones_the_next_type() -> None:
    full = [(False, "t3.small", zone) for zone in ZONES]
    for number in (1, 2):
        choice = one(pod(cpu="0.2"), Offers(SMALL.catalogue, full=Full(frozenset(full[:number]))))
        assert choice.instance_type == "t3.small"
        assert choice.zone in ZONES[number:]
    assert one(pod(cpu="0.2"), Offers(SMALL.catalogue, full=Full(frozenset(full)))).instance_type == "c5.large"
    spot = Offers(SMALL.catalogue, full=Full(frozenset((True, name, zone) for _, name, zone in full)))
    assert one(pod(cpu="0.2"), spot).instance_type == "t3.small"


@pytest.mark.parametrize(
    ("full", "spot", "on_demand"),
    [
        (Full(families=frozenset({(False, "t3")})), "t3.small", "c5.large"),
        (Full(families=frozenset({(True, "t3")})), "m5.large", "t3.small"),
        (Full(spot=True), None, "t3.small"),
        (Full(zones=frozenset({(True, zone) for zone in ZONES})), "t3.small", "t3.small"),
        (Full(zones=frozenset({(False, zone) for zone in ZONES})), None, None),
    ],
)
def test_how_far_a_failed_launch_reaches(full: Full, spot: str | None, on_demand: str | None) -> None:
    offers = Offers(SMALL.catalogue, full=full)
    for policy, name in ((SpotPolicy.ALWAYS, spot), (SpotPolicy.NEVER, on_demand)):
        answer = choose([pod(policy, cpu="0.2")], offers)[0]
        if name is None:
            assert isinstance(answer, Refusal)
            assert (answer.reason, answer.temporary) == (NO_CAPACITY, True)
        else:
            assert isinstance(answer, Choice)
            assert answer.instance_type == name


def test_preferred_spot_falls_back_only_when_no_zone_has_spot() -> None:
    asking = pod(SpotPolicy.PREFERRED, instance_type="c5.large")
    two = frozenset((True, "c5.large", zone) for zone in ZONES[:2])
    last = one(asking, Offers(SMALL.catalogue, full=Full(two)))
    assert (last.spot, last.zone, last.spot_failed) == (True, ZONES[2], False)
    fallen = one(asking, Offers(SMALL.catalogue, full=Full(two | {(True, "c5.large", ZONES[2])})))
    assert (fallen.spot, fallen.price, fallen.spot_failed) == (False, 0.085, True)
    always = pod(SpotPolicy.ALWAYS, instance_type="c5.large")
    refusal = none(always, Offers(SMALL.catalogue, full=Full(spot=True)))
    assert (refusal.reason, refusal.temporary) == (NO_CAPACITY, True)
    assert "spot c5.large" in refusal.message


PRICES = Offers(
    make_catalogue(
        [
            row("a5.large", price=0.10, spot=(0.11, 0.10, 0.12)),
            row("b5.large", price=0.50, spot=(0.04, 0.05, 0.06)),
            row("d5.xlarge", vcpus=4.0, price=0.20, spot=(0.30, 0.30, 0.30)),
            row(
                "t5.large",
                price=0.02,
                spot=(0.01,) * 3,
                vcpus=2.0,
                memory_mib=1024,
                burstable=True,
                baseline=0.5,
                surcharge=0.05,
            ),
        ]
    )
)


def closed(spot: bool, *names: str, zones: tuple[str, ...] = ZONES) -> Full:
    """All given types are full in these zones."""
    return Full(types=frozenset((spot, name, zone) for name in names for zone in zones))


@pytest.mark.parametrize(
    ("asked", "full", "name", "spot", "reason"),
    [
        # Spot is cheaper than the cheapest on demand: it is taken, wherever it has become full.
        ({"memory": "2Gi"}, Full(), "b5.large", True, ""),
        ({"memory": "2Gi"}, closed(True, "b5.large", zones=ZONES[:2]), "b5.large", True, ""),
        # At the same price it is taken, since it is preferred; above it, it is not.
        ({"memory": "2Gi"}, closed(True, "b5.large"), "a5.large", True, ""),
        (
            {"memory": "2Gi"},
            Full(closed(True, "b5.large").types | {(True, "a5.large", ZONES[1])}),
            "a5.large",
            False,
            SPOT_DEARER,
        ),
        ({"cpu": "3"}, Full(), "d5.xlarge", False, SPOT_DEARER),
        # What is to be had on demand counts, not what would be cheapest: dear spot is better than nothing.
        ({"cpu": "3"}, closed(False, "d5.xlarge"), "d5.xlarge", True, ""),
        (
            {"memory": "2Gi"},
            Full(closed(True, "b5.large").types | closed(False, "a5.large").types),
            "a5.large",
            True,
            "",
        ),
        ({"memory": "2Gi"}, closed(True, "a5.large", "b5.large", "d5.xlarge"), "a5.large", False, NO_CAPACITY),
        # The surcharge counts on both sides.
        ({"cpu": "1"}, Full(), "t5.large", True, ""),
        ({"cpu": "2"}, closed(True, "b5.large", "t5.large"), "t5.large", False, SPOT_DEARER),
    ],
)
def test_preferred_spot_never_costs_more_than_on_demand_would(
    asked: dict[str, str], full: Full, name: str, spot: bool, reason: str
) -> None:
    choice = one(pod(SpotPolicy.PREFERRED, **asked), replace(PRICES, full=full))
    assert (choice.instance_type, choice.spot) == (name, spot)
    assert choice.spot_failed == bool(reason)
    assert (choice.no_spot.reason if choice.no_spot else "") == reason
    assert one(pod(SpotPolicy.ALWAYS, cpu="3"), PRICES).price == 0.3


def test_why_spot_is_too_dear_is_told_in_prices() -> None:
    refusal = one(pod(SpotPolicy.PREFERRED, cpu="3"), PRICES).no_spot
    assert refusal is not None
    assert refusal.message == "spot costs $0.3 an hour at least (d5.xlarge), on demand $0.2 (d5.xlarge)"


# ---------------------------------------------------------------- an end to the search

NAMES = [f"c5.s{number}" for number in range(10)]
WIDE = Offers(
    make_catalogue(
        [row(name, price=0.1 + number / 100, spot=(0.01 + number / 1000,) * 3) for number, name in enumerate(NAMES)]
        + [row("x5.huge", vcpus=64.0, price=9.0, spot=(1.0,) * 3), row("z5.arm", arch="arm64", price=0.01)]
    ),
    capacity_tries=12,
)
ELEVEN = Full(types=closed(True, *NAMES[:4]).types - {(True, NAMES[3], ZONES[2])})
TWELVE = closed(True, *NAMES[:4])
ON_DEMAND_TOO = Full(types=TWELVE.types | closed(False, *NAMES[:4]).types)


@pytest.mark.parametrize(
    ("policy", "full", "asked", "expected"),
    [
        (SpotPolicy.ALWAYS, ELEVEN, {"cpu": "2"}, (NAMES[3], True)),
        (SpotPolicy.ALWAYS, TWELVE, {"cpu": "2"}, None),
        (SpotPolicy.PREFERRED, ELEVEN, {"cpu": "2"}, (NAMES[3], True)),
        (SpotPolicy.PREFERRED, TWELVE, {"cpu": "2"}, (NAMES[0], False)),
        (SpotPolicy.PREFERRED, ON_DEMAND_TOO, {"cpu": "2"}, None),
        (SpotPolicy.NEVER, TWELVE, {"cpu": "2"}, (NAMES[0], False)),
        (SpotPolicy.NEVER, ON_DEMAND_TOO, {"cpu": "2"}, None),
        # What does not fit this request says nothing of those that do.
        (SpotPolicy.ALWAYS, TWELVE, {"cpu": "8"}, ("x5.huge", True)),
        (SpotPolicy.ALWAYS, TWELVE, {"arch": "arm64"}, ("z5.arm", True)),
        (SpotPolicy.ALWAYS, TWELVE, {"cpu": "2", "zone": ZONES[0]}, (NAMES[4], True)),
        (SpotPolicy.ALWAYS, TWELVE, {"instance_type": "x*", "cpu": "2"}, ("x5.huge", True)),
        # A name has few zones, and they are all tried.
        (SpotPolicy.ALWAYS, TWELVE, {"instance_type": NAMES[5]}, (NAMES[5], True)),
        # Zones without addresses, and families, are no tries.
        (SpotPolicy.ALWAYS, replace(ELEVEN, zones=frozenset({(True, ZONES[0])})), {"cpu": "2"}, (NAMES[3], True)),
    ],
)
def test_a_search_in_vain_ends(
    policy: SpotPolicy, full: Full, asked: dict[str, str], expected: tuple[str, bool] | None
) -> None:
    answer = choose([pod(policy, **asked)], replace(WIDE, full=full))[0]
    if expected is None:
        assert isinstance(answer, Refusal)
        assert (answer.reason, answer.temporary) == (NO_CAPACITY, True)
        assert ": 12 pairs of type and zone that fit were tried in vain; trying again 180 s after" in answer.message
    else:
        assert isinstance(answer, Choice), answer
        assert (answer.instance_type, answer.spot) == expected
        assert answer.spot_failed == (policy == SpotPolicy.PREFERRED and not answer.spot)


def test_a_name_tries_all_its_zones_and_dear_spot_is_better_than_a_search_in_vain() -> None:
    two = closed(True, NAMES[5], zones=ZONES[:2])
    named = one(pod(SpotPolicy.ALWAYS, instance_type=NAMES[5]), replace(WIDE, full=two, capacity_tries=1))
    assert (named.spot, named.zone) == (True, ZONES[2])
    no_room = closed(False, "a5.large", "t5.large", zones=ZONES[:1])
    dear = pod(SpotPolicy.PREFERRED, instance_type="?5.*large", cpu="3")
    tried = replace(PRICES, full=closed(False, "d5.xlarge", zones=ZONES[:1]), capacity_tries=1)
    assert one(dear, replace(PRICES, full=no_room, capacity_tries=1)).spot is False
    assert one(dear, tried).spot is True


@pytest.mark.parametrize("tries", [1, 12, 40])
@pytest.mark.parametrize("policy", SpotPolicy)
def test_when_nothing_is_to_be_had_a_pod_tries_so_many_and_waits(policy: SpotPolicy, tries: int) -> None:
    asking, tried = pod(policy, cpu="2"), Counter[bool]()
    offers = replace(REAL, capacity_tries=tries)
    while isinstance(answer := choose([asking], offers)[0], Choice):
        tried[answer.spot] += 1
        assert tried[answer.spot] <= tries
        offers = replace(offers, full=offers.full.with_types({(answer.spot, answer.instance_type, answer.zone)}))
    wanted = {SpotPolicy.ALWAYS: {True: tries}, SpotPolicy.NEVER: {False: tries}}
    if policy in wanted:
        assert tried == wanted[policy]
    else:
        assert tried[False] == tries
        assert tried[True] > 0
    assert answer.reason == NO_CAPACITY
    assert f"{tries} pairs" in answer.message


def test_equal_pods_of_a_pass_are_spread_evenly_over_the_zones() -> None:
    pods = [make_pod(name=f"web-{n}", resources=ResourceSpec(cpu="1"), owner_uid="rs") for n in range(60)]
    answers = choose(pods, REAL)
    assert {a.instance_type for a in answers if isinstance(a, Choice)} == {"t3a.small"}
    zones = Counter(a.zone for a in answers if isinstance(a, Choice))
    offering = REAL.catalogue.zones_of("t3a.small")
    assert zones == Counter(dict.fromkeys(offering, 60 // len(offering)))


def test_a_pass_of_many_kinds_answers_each_in_its_place() -> None:
    kinds = [pod(cpu="0.1"), pod(memory="64Ti"), pod(SpotPolicy.PREFERRED, gpu="1"), pod(arch="arm64")]
    alone = [choose([kind], REAL)[0] for kind in kinds]
    together = choose(kinds * 30, REAL)
    for place, answer in enumerate(together):
        expected = alone[place % len(kinds)]
        if isinstance(expected, Choice) and isinstance(answer, Choice):
            assert answer.instance_type == expected.instance_type
            assert (answer.price, answer.spot, answer.credits) == (expected.price, expected.spot, expected.credits)
        else:
            assert answer == expected


def test_replicas_are_spread_over_the_zones_of_the_cheapest_type() -> None:
    spec = pod(cpu="2", dedicatedCPU=True).spec
    assert spread_over_zones(spec, SMALL, {ZONES[0]: 2, ZONES[1]: 1}, 3) == [ZONES[2], ZONES[1], ZONES[2]]
    refusal = spread_over_zones(pod(memory="1Ei").spec, SMALL, {}, 3)
    assert isinstance(refusal, Refusal)
    nothing = spread_over_zones(pod().spec, Offers(SMALL.catalogue), {}, 1)
    assert isinstance(nothing, Refusal)


@pytest.mark.parametrize(
    ("asking", "reason", "texts"),
    [
        (
            pod(memory="64Ti"),
            NO_TYPE_FITS,
            ["largest memory in us-east-1 is 32768 GiB (u7in-32tb.224xlarge)", "65536"],
        ),
        (pod(gpu="16"), NO_TYPE_FITS, ["most GPUs in us-east-1 is 8 (", "16 was asked"]),
        (pod(gpu="1", gpuName="H9000"), NO_TYPE_FITS, ["H9000", "NVIDIA T4"]),
        (pod(cpu="1000"), NO_TYPE_FITS, ["most CPU in us-east-1 is 896", "1000 was asked"]),
        (pod(cpu="1", instance_type="c5*", memory="1Ti"), NO_TYPE_FITS, ["c5*", "largest memory"]),
        (pod(instance_type="x9.huge"), UNKNOWN_TYPE, ["x9.huge", "us-east-1", "spec.instanceType"]),
        (pod(instance_type="x9*"), UNKNOWN_TYPE, ["matches 'x9*'"]),
        (pod(instance_type="m1.small"), UNKNOWN_TYPE, ["paravirtual"]),
        (pod(zone="us-east-1z"), UNKNOWN_ZONE, ["us-east-1z", "us-east-1a, us-east-1b"]),
    ],
)
def test_a_refusal_names_the_constraint_and_what_would_fit(asking: Pod, reason: str, texts: list[str]) -> None:
    refusal = none(asking, REAL)
    assert (refusal.reason, refusal.temporary) == (reason, False)
    for text in texts:
        assert text in refusal.message


def test_spot_that_nobody_prices_is_refused_as_such() -> None:
    refusal = none(pod(SpotPolicy.ALWAYS, cpu="1"), Offers(load_catalog("us-gov-west-1")))
    assert refusal.reason == NO_SPOT
    assert "no spot price is known" in refusal.message


def test_bare_metal_is_taken_only_when_named() -> None:
    assert "bare metal" in none(pod(cpu="64")).message
    assert one(pod(instance_type="c5.metal")).instance_type == "c5.metal"
    assert one(pod(instance_type="*.metal", cpu="64")).instance_type == "c5.metal"
    assert one(pod(instance_type="c5*", cpu="2")).instance_type == "c5.large"


def test_no_default_type_is_a_refusal_that_names_both_settings() -> None:
    refusal = none(pod(), Offers(SMALL.catalogue))
    assert refusal.reason == "NoInstanceType"
    assert "nodes.defaultInstanceType" in refusal.message


def test_a_region_whose_zones_nobody_knows_takes_a_wished_zone_at_its_word() -> None:
    gov = Offers(load_catalog("us-gov-west-1"))
    assert one(pod(cpu="1"), gov).zone == ""
    assert one(pod(zone="us-gov-west-1b", cpu="1"), gov).zone == "us-gov-west-1b"
