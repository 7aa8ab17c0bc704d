"""The explanation chooses as the controllers do, prices the whole, and leaves no type out."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milpa_ray.api.meta import ObjectMeta
from milpa_ray.api.node import Node, NodeSpec
from milpa_ray.api.pod import PlacementSpec, PodSpec, PodSpot, ResourceSpec, SpotPolicy
from milpa_ray.planner.choose import NO_DEFAULT, Choice, Offers, choose
from milpa_ray.planner.explain import (
    HOURS_PER_MONTH,
    PUBLIC_IPV4_USD_PER_HOUR,
    VOLUME_USD_PER_GIB_MONTH,
    explain,
    root_volume_gib,
)
from milpa_ray.planner.fullness import Full
from milpa_ray.planner.launches import launch_kind
from milpa_ray.planner.volumes import gib
from tests.planner.catalogues import ZONES, make_catalogue, row
from tests.planner.factories import OFFERS, make_pod

SPECS = st.builds(
    lambda instance_type, policy, zone, resources: PodSpec(
        instance_type=instance_type,
        spot=PodSpot(policy=policy),
        placement=PlacementSpec(availability_zone=zone),
        resources=resources,
    ),
    st.sampled_from(("", "", "", "c5*", "T3*", "c6a.large", "c5.larg")),
    st.sampled_from(SpotPolicy),
    st.sampled_from(("", "", "us-east-1e", "us-east-1z")),
    st.builds(
        ResourceSpec,
        cpu=st.sampled_from(("", "0.1", "0.5", "2", "96", "1000")),
        memory=st.sampled_from(("", "512Mi", "2Gi", "1Ti", "40Ti")),
        gpu=st.sampled_from(("", "", "1", "8")),
        gpu_name=st.sampled_from(("", "", "T4")),
        dedicated_cpu=st.booleans(),
        sustained_cpu=st.sampled_from((None, True, False)),
        arch=st.sampled_from(("", "arm64")),
    ),
)
MANY_FULL = Full(
    types=frozenset(
        (spot, name, zone)
        for spot in (True, False)
        for name in OFFERS.catalogue.names
        if name.startswith(("t3a.", "t4g.", "c6a.", "c5a."))
        for zone in OFFERS.catalogue.zones
    )
)
FULL = Full(families=frozenset({(False, "c6a")}), types=frozenset({(True, "t3a.nano", "us-east-1a")}))


@given(SPECS, st.sampled_from((OFFERS, Offers(OFFERS.catalogue, "", FULL), Offers(OFFERS.catalogue, "", MANY_FULL))))
@settings(max_examples=75, deadline=None)
def test_it_chooses_as_the_controllers_do(spec: PodSpec, offers: Offers) -> None:
    found = explain(spec, offers, "5Gi")
    (expected,) = choose([make_pod(**dict(spec))], offers)
    if not isinstance(expected, Choice):
        assert (found.chosen, found.refusal) == (None, expected)
        return
    best = found.chosen
    assert best is not None
    cost = best.cost
    assert cost is not None
    assert found.refusal is None
    assert (best.name, cost.instance, cost.surcharge) == (expected.instance_type, expected.price, expected.surcharge)
    assert best.credits == expected.credits
    assert expected.zone in best.zones
    assert found.request is not None
    assert found.request.policy.spot == expected.spot
    assert (found.no_spot is not None) == expected.spot_failed
    assert len(found.fitting) + len(found.out) == len(offers.catalogue)
    assert all(other.shortfalls and not other.cost for other in found.out)
    totals = [other.cost.total for other in found.fitting if other.cost]
    assert totals == sorted(totals)


def test_the_cost_is_price_surcharge_and_disk() -> None:
    found = explain(PodSpec(resources=ResourceSpec(cpu="0.5", volume_size="20Gi")), OFFERS, "5Gi")
    assert found.chosen is not None
    cost = found.chosen.cost
    assert cost is not None
    disk = 20 * VOLUME_USD_PER_GIB_MONTH / HOURS_PER_MONTH
    assert (cost.instance, cost.volume) == (0.0188, disk)
    assert cost.surcharge == pytest.approx(0.05 * 0.1)
    assert cost.public_ipv4 == PUBLIC_IPV4_USD_PER_HOUR
    assert cost.total == pytest.approx(0.0188 + 0.005 + 20 * 0.08 / 730 + 0.005)
    assert cost.month == pytest.approx(730 * (0.0238 + 0.005) + 20 * 0.08)


def test_the_disk_never_counts_in_the_ranking() -> None:
    spec = PodSpec(resources=ResourceSpec(cpu="2", volume_size="16Ti"))
    small = PodSpec(resources=ResourceSpec(cpu="2"))
    assert [t.name for t in explain(spec, OFFERS).fitting] == [t.name for t in explain(small, OFFERS).fitting]


@pytest.mark.parametrize(("asked", "default"), [("", ""), ("", "5Gi"), ("1", "5Gi"), ("60Gi", "5Gi"), ("5.5Gi", "5Gi")])
def test_the_root_volume_is_that_of_the_launch(asked: str, default: str) -> None:
    resources = ResourceSpec(volume_size=asked)
    node = Node(metadata=ObjectMeta(name="n"), spec=NodeSpec(resources=resources))
    assert root_volume_gib(resources, default) == launch_kind(node, gib(default)).volume_gib


def test_a_pod_that_says_nothing() -> None:
    by_default = explain(PodSpec(), OFFERS)
    assert by_default.by_default
    assert by_default.chosen is not None
    assert by_default.chosen.name == "t3.nano"
    nothing = explain(PodSpec(), Offers(OFFERS.catalogue))
    assert (nothing.request, nothing.chosen, nothing.refusal) == (None, None, NO_DEFAULT)
    assert not explain(PodSpec(instance_type="t3.nano"), OFFERS).by_default
    assert not explain(PodSpec(resources=ResourceSpec(arch="arm64")), OFFERS).by_default


def test_each_reason_says_what_the_type_has() -> None:
    types = [
        row("a1.big", vcpus=4.0, memory_mib=8192, arch="arm64"),
        row("b1.metal", vcpus=4.0, memory_mib=8192, bare_metal=True),
        row("c1.old", vcpus=4.0, memory_mib=8192),
        row("d1.small", vcpus=1.0, memory_mib=512),
        row("e1.shared", vcpus=4.0, memory_mib=8192, burstable=True, baseline=0.8),
        row("f1.elsewhere", vcpus=4.0, memory_mib=8192, offered=(True, False, True)),
        row("g1.full", vcpus=4.0, memory_mib=8192),
        row("h1.nowhere", vcpus=4.0, memory_mib=8192, offered=(False, False, False)),
        row("i1.free", vcpus=4.0, memory_mib=8192, price=math.nan),
        row("j1.good", vcpus=4.0, memory_mib=8192, price=9.0),
    ]
    spec = PodSpec(
        resources=ResourceSpec(cpu="2", memory="4Gi", sustained_cpu=False),
        placement=PlacementSpec(availability_zone=ZONES[1]),
    )
    full = Full(types=frozenset({(False, "g1.full", ZONES[1])}))
    found = explain(spec, Offers(make_catalogue(types), "", full))
    assert [verdict.name for verdict in found.fitting] == ["j1.good"]
    assert {verdict.name: [reason.message for reason in verdict.shortfalls] for verdict in found.out} == {
        "a1.big": ["arm64, not amd64, the default"],
        "b1.metal": ["bare metal, taken only when named"],
        "c1.old": ["boots paravirtual images only, and there are none any more"],
        "d1.small": ["0.5 GiB memory of 4 asked", "1 vCPU of 2 asked"],
        "e1.shared": ["CPU baseline 0.8 of 2 asked with sustainedCPU false"],
        "f1.elsewhere": [f"not in {ZONES[1]}, but in {ZONES[0]}, {ZONES[2]}"],
        "g1.full": ["the cloud had none a moment ago"],
        "h1.nowhere": ["no zone has it any more"],
        "i1.free": ["no price is known"],
    }
