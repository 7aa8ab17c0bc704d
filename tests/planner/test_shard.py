"""What a pass writes for waiting pods: a complete node record, and why there is none."""

from dataclasses import replace

import pytest

from cloud.catalog import load_catalog
from milpa_ray.api.node import Node
from milpa_ray.api.pod import Pod, PodSpot, ResourceSpec, SpotPolicy
from milpa_ray.planner.choose import Offers
from milpa_ray.planner.fullness import Full
from milpa_ray.planner.shard import REFUSAL_RETRY_S, plan_shard
from milpa_ray.planner.snapshot import CasePlan
from tests.planner.catalogues import make_catalogue, row
from tests.planner.factories import LIMITS, make_case, make_pod, make_snapshot, written

CATALOGUE = load_catalog("us-east-1")


def plan(pod: Pod, full: Full | None = None) -> tuple[CasePlan, Pod, Node | None]:
    """The plan of a waiting pod, with the pod and the node that it writes."""
    offers = Offers(CATALOGUE, "t3.nano", full or Full())
    done = plan_shard(make_snapshot(make_case(pod), offers=offers))[0]
    after = written(done)
    node = after.get("fresh")
    assert node is None or isinstance(node, Node)
    told = after["web"]
    assert isinstance(told, Pod)
    return done, told, node


@pytest.mark.parametrize(
    ("asked", "name", "mode", "price"),
    [
        ({"cpu": "0.1"}, "t3a.nano", "standard", 0.0047),
        ({"cpu": "0.15"}, "t3a.nano", "unlimited", 0.0047),
        ({"cpu": "2", "memory": "2Gi", "dedicatedCPU": True}, "c6a.large", "", 0.0765),
    ],
)
def test_the_node_record_is_complete(asked: dict[str, object], name: str, mode: str, price: float) -> None:
    _, pod, node = plan(make_pod(resources=ResourceSpec.model_validate(asked)))
    assert node is not None
    assert (node.spec.instance_type, node.spec.cpu_credits, node.status.price_usd_hour) == (name, mode, price)
    assert node.spec.placement.availability_zone in CATALOGUE.zones_of(name)
    assert node.spec.resources == pod.spec.resources
    assert not pod.status.spot_failure


def test_preferred_spot_that_is_not_there_is_told_and_runs_on_demand() -> None:
    asking = make_pod(instance_type="c5.large", spot=PodSpot(policy=SpotPolicy.PREFERRED))
    _, pod, node = plan(asking)
    assert node is not None
    assert (node.spec.spot, pod.status.spot_failure) == (True, False)
    done, pod, node = plan(asking, Full(spot=True))
    assert node is not None
    assert (node.spec.spot, pod.status.spot_failure) == (False, True)
    assert [n.kind for n in done.notices if n.status == "start-spot-failed"] == ["Pod"]
    _, pod, _ = plan(pod)  # Once there is spot again, the next start says so.
    assert not pod.status.spot_failure


def test_a_search_in_vain_is_told_once_as_a_lack_of_capacity() -> None:
    asking = make_pod(resources=ResourceSpec(cpu="2"), spot=PodSpot(policy=SpotPolicy.ALWAYS))
    full, offers, limits = Full(), Offers(CATALOGUE, "t3.nano"), LIMITS.model_copy(update={"capacity_tries": 5})
    for _ in range(5):
        done = plan_shard(make_snapshot(make_case(asking), offers=replace(offers, full=full), limits=limits))[0]
        node = written(done)["fresh"]
        assert isinstance(node, Node)
        full = full.with_types({(True, node.spec.instance_type, node.spec.placement.availability_zone)})
    snapshot = make_snapshot(make_case(asking), offers=replace(offers, full=full), limits=limits)
    done = plan_shard(snapshot)[0]
    waiting = written(done)["web"]
    assert isinstance(waiting, Pod)
    assert waiting.status.reason == "InsufficientInstanceCapacity"
    assert "no spot instance in any zone: 5 pairs of type and zone" in waiting.status.message
    assert [(n.status, n.message) for n in done.notices] == [("pod-unschedulable", waiting.status.message)]
    again = plan_shard(replace(snapshot, cases=(make_case(waiting),)))[0]
    assert (again.writes, again.notices, again.wake_s) == ((), (), REFUSAL_RETRY_S)


def test_spot_that_costs_more_is_told_with_both_prices() -> None:
    types = [row("c5.large", price=0.1, spot=(0.7, 0.8, 0.9))]
    asking = make_pod(instance_type="c5.large", spot=PodSpot(policy=SpotPolicy.PREFERRED))
    done = plan_shard(make_snapshot(make_case(asking), offers=Offers(make_catalogue(types))))[0]
    pod = written(done)["web"]
    assert isinstance(pod, Pod)
    assert pod.status.spot_failure
    assert [n.message for n in done.notices if n.status == "start-spot-failed"] == [
        "spot costs $0.7 an hour at least (c5.large), on demand $0.1 (c5.large); on demand instead, at $0.1 an hour"
    ]


def test_a_pod_that_nothing_fits_stays_waiting_and_says_why_once() -> None:
    done, pod, node = plan(make_pod(resources=ResourceSpec(memory="64Ti")))
    assert node is None
    assert pod.status.reason == "NoInstanceTypeFits"
    assert "largest memory in us-east-1 is 32768 GiB" in pod.status.message
    assert [n.message for n in done.notices if n.status == "pod-unschedulable"] == [pod.status.message]
    again = plan_shard(make_snapshot(make_case(pod), offers=Offers(CATALOGUE)))[0]
    assert (again.writes, again.notices) == ((), ())
    assert again.wake_s is not None
