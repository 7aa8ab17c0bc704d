"""What nothing fits: the text names what binds and a value that would fit, and the pod carries it while it waits."""

import re
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud.catalog import load_catalog
from milpa_ray.api.pod import PlacementSpec, Pod, PodPhase, PodSpot, ResourceSpec, SpotPolicy
from milpa_ray.planner.choose import Offers, choose
from milpa_ray.planner.fullness import NOTHING_FULL, Full
from milpa_ray.planner.refusal import NO_CAPACITY, NO_SPOT, NO_TYPE_FITS, UNKNOWN_TYPE, UNKNOWN_ZONE, Refusal, why_none
from milpa_ray.planner.request import Policy, Request
from milpa_ray.planner.selection import NONE, selector_of
from milpa_ray.planner.shard import REFUSAL_RETRY_S, plan_shard
from tests.planner.factories import OFFERS, make_case, make_pod, make_snapshot, written

REAL = load_catalog("us-east-1")


def fits(request: Request, full: Full = NOTHING_FULL) -> bool:
    return selector_of(REAL).select_one(request, full).row != NONE


def why(policy: Policy, cpu: float = 0.0, memory_mib: int = 0) -> Refusal:
    request = Request(policy, cpu, memory_mib)
    assert not fits(request)
    return why_none(REAL, request)


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (
            Request(memory_mib=40 << 20),
            "largest memory in us-east-1 is 32768 GiB (u7in-32tb.224xlarge), 40960 GiB was asked",
        ),
        (Request(cpu=1000), "most CPU in us-east-1 is 896 (u7i-12tb.224xlarge), 1000 was asked"),
        (Request(Policy(gpus=17)), "most GPUs in us-east-1 is 8 (g5.48xlarge), 17 was asked"),
        (
            Request(Policy(gpus=9, gpu_name="T4"), 4),
            "most GPUs in us-east-1 with the rest as asked is 4 (g4dn.12xlarge)",
        ),
        (Request(Policy(gpu_name="T5")), "there is no GPU 'T5'; there is NVIDIA A100,"),
        (Request(Policy(gpus=1, gpu_name="T5")), "there is no GPU 'T5' of that count; there is NVIDIA A100,"),
        (Request(Policy(arch="arm64", gpus=8)), "; or g6.48xlarge would with arch amd64"),
        (Request(Policy(instance_type="c5*"), 1000), "no c5* instance type fits: most CPU in us-east-1 with"),
        (Request(Policy(instance_type="t3*", dedicated_cpu=True)), "t3a.nano would without dedicatedCPU"),
        (
            Request(Policy(instance_type="t3*", sustained_cpu=False), 5),
            "most CPU in us-east-1 with the rest as asked is 3.2 (t3.2xlarge), 5 was asked; "
            "or t3a.2xlarge would without 'sustainedCPU: false'",
        ),
        (
            Request(Policy(gpus=8, gpu_name="T4"), 200),
            "nearest in us-east-1 is g4dn.metal (96 CPU, 384 GiB, 8 NVIDIA T4), but: "
            "bare metal, taken only when named; 96 vCPU of 200 asked",
        ),
        (
            Request(cpu=1000, memory_mib=40 << 20),
            "nearest in us-east-1 is u7in-32tb.224xlarge (896 CPU, 32768 GiB), but: "
            "32768 GiB memory of 40960 asked; 896 vCPU of 1000 asked",
        ),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_the_text_names_what_binds(request_: Request, text: str) -> None:
    found = why(request_.policy, request_.cpu, request_.memory_mib)
    assert found.reason == NO_TYPE_FITS
    assert text in found.message
    assert not found.temporary


@pytest.mark.parametrize(
    ("policy", "reason", "text"),
    [
        (Policy("c5.larg"), UNKNOWN_TYPE, "did you mean 'c5.large'?"),
        (Policy("zz*"), UNKNOWN_TYPE, "no instance type of us-east-1 matches 'zz*'"),
        (Policy("m1.small"), UNKNOWN_TYPE, "boots paravirtual images only"),
        (Policy(zone="us-east-1z"), UNKNOWN_ZONE, "one of us-east-1a, us-east-1b"),
        (Policy("g5.xlarge", zone="us-east-1e"), UNKNOWN_ZONE, "not offered in zone 'us-east-1e'"),
    ],
)
def test_names_that_mean_nothing_here(policy: Policy, reason: str, text: str) -> None:
    found = why(policy)
    assert found.reason == reason
    assert text in found.message


def test_a_region_without_spot_prices() -> None:
    gov = load_catalog("us-gov-west-1")
    found = why_none(gov, Request(Policy(spot=True), 2))
    assert found.reason == NO_SPOT
    assert "no spot price is known for " in found.message


def test_a_lack_of_capacity_is_temporary() -> None:
    request = Request(Policy("c5.large", zone="us-east-1a"))
    full = Full(types=frozenset({(False, "c5.large", "us-east-1a")}))
    assert not fits(request, full)
    found = why_none(REAL, request, full)
    assert (found.reason, found.temporary) == (NO_CAPACITY, True)
    assert found.message == "the cloud had no c5.large in us-east-1a a moment ago; trying again shortly"


# ---------------------------------------------------------------- what would fit, fits

POLICIES = st.builds(
    Policy,
    instance_type=st.sampled_from(("", "", "", "c5*", "t3*", "*.metal", "g?.*")),
    arch=st.sampled_from(("amd64", "amd64", "arm64")),
    dedicated_cpu=st.booleans(),
    sustained_cpu=st.sampled_from((None, True, False)),
    gpus=st.sampled_from((0, 0, 1, 4, 8, 9)),
    gpu_name=st.sampled_from(("", "", "T4", "a100", "T4g", "K80")),
    spot=st.booleans(),
    zone=st.sampled_from(("", "", "us-east-1e")),
)
REQUESTS = st.builds(
    Request,
    POLICIES,
    st.sampled_from((0.0, 0.2, 1.0, 5.0, 97.0, 300.0, 1000.0)),
    st.sampled_from((0, 1 << 10, 1 << 16, 1 << 20, 1 << 24, 1 << 26)),
)
AMOUNTS = re.compile(r"(largest memory|most CPU|most GPUs) in us-east-1(?: with the rest as asked)? is ([\d.]+)")


def proposed(request: Request, message: str) -> Iterator[Request]:
    """The requests that the text says would fit."""
    for what, number in AMOUNTS.findall(message):
        if what == "largest memory":
            yield replace(request, memory_mib=round(float(number) * 1024))
        elif what == "most CPU":
            yield replace(request, cpu=float(number))
        else:
            yield replace(request, policy=replace(request.policy, gpus=int(number)))
    changes = {
        "would without dedicatedCPU": {"dedicated_cpu": False},
        "would without 'sustainedCPU: false'": {"sustained_cpu": None},
        "would, but spec.instanceType does not match": {"instance_type": ""},
        "would with arch amd64": {"arch": "amd64"},
        "would with arch arm64": {"arch": "arm64"},
        "has none that fits;": {"zone": ""},
        "there is no GPU": {"gpu_name": ""},
    }
    for text, change in changes.items():
        if text in message:
            yield replace(request, policy=replace(request.policy, **change))  # type: ignore[arg-type]


@given(REQUESTS)
@settings(max_examples=300, deadline=None)
def test_what_is_said_to_fit_does(request: Request) -> None:
    if fits(request):
        return
    message = why_none(REAL, request).message
    better = list(proposed(request, message))
    named = re.search(r"nearest in us-east-1 is|bare metal is taken only|no spot price is known", message)
    assert better or named, message
    for wish in better:
        assert fits(wish), (message, wish)


# ---------------------------------------------------------------- pods that wait


def planned(pod: Pod, offers: Offers = OFFERS) -> tuple[Pod, list[tuple[str, str]], float | None]:
    """The pod after a pass, the events of the pass, and when it is looked at again."""
    (plan,) = plan_shard(make_snapshot(make_case(pod), offers=offers))
    after = written(plan).get("web", pod)
    assert isinstance(after, Pod)
    return after, [(notice.status, notice.message) for notice in plan.notices], plan.wake_s


def test_a_pod_that_nothing_fits_waits_and_says_why_once() -> None:
    pod = make_pod(resources=ResourceSpec(memory="40Ti"))
    message = (
        "no instance type fits: largest memory in us-east-1 is 32768 GiB (u7in-32tb.224xlarge), 40960 GiB was asked"
    )
    waiting, events, wake_s = planned(pod)
    assert (waiting.status.phase, waiting.status.reason) == (PodPhase.WAITING, NO_TYPE_FITS)
    assert waiting.status.message == message
    assert events == [("pod-unschedulable", message)]
    assert wake_s == REFUSAL_RETRY_S
    again, events, wake_s = planned(waiting)
    assert (again, events, wake_s) == (waiting, [], REFUSAL_RETRY_S)


def test_a_pod_that_says_nothing_needs_a_default() -> None:
    waiting, events, _ = planned(make_pod(), Offers(REAL))
    assert waiting.status.reason == "NoInstanceType"
    assert "nodes.defaultInstanceType" in waiting.status.message
    assert [status for status, _ in events] == ["pod-unschedulable"]


def test_the_reason_goes_when_something_fits() -> None:
    zone = PlacementSpec(availability_zone="us-east-1a")
    pod = make_pod(instance_type="c5.large", placement=zone)
    full = Full(types=frozenset({(False, "c5.large", "us-east-1a")}))
    waiting, _, _ = planned(pod, replace(OFFERS, full=full))
    assert waiting.status.reason == NO_CAPACITY
    launching, events, _ = planned(waiting)
    assert launching.status.reason == "Launching"
    assert launching.status.message == "c5.large in us-east-1a"
    assert "pod-unschedulable" not in [status for status, _ in events]


def test_of_spot_that_is_preferred_the_refusal_is_that_of_on_demand() -> None:
    pod = make_pod(resources=ResourceSpec(memory="40Ti"), spot=PodSpot(policy=SpotPolicy.PREFERRED))
    (found,) = choose([pod], OFFERS)
    assert isinstance(found, Refusal)
    assert found.message.startswith("no instance type fits")
