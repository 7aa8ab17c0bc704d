"""Pods that state resources run on the cheapest instance that fits, and what is full or fits nothing is told."""

import pytest

from tests.e2e.drills import Cluster, Object

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

CHOSEN = {
    "tenth-core": ({"cpu": "0.1"}, "t3a.nano", "standard", 0.0047),
    "above-baseline": ({"cpu": "150m", "memory": "300Mi"}, "t3a.nano", "unlimited", 0.0047),
    "dedicated": ({"cpu": "2", "memory": "2Gi", "dedicatedCPU": True}, "c6a.large", None, 0.0765),
    "one-gpu": ({"gpu": "1"}, "g4dn.xlarge", None, 0.526),
}


@pytest.fixture(scope="module")
def chosen(cluster: Cluster) -> Cluster:
    """All pods of these tests that need no fault, created in one call."""
    cluster.create(
        *(cluster.pod(name, resources=asked) for name, (asked, *_) in CHOSEN.items()),
        cluster.pod("by-pattern", instanceType="c5*", resources={"cpu": "3"}),
        cluster.pod("too-big", resources={"memory": "64Ti"}),
    )
    return cluster


def node_of(cluster: Cluster, pod: str) -> Object:
    return cluster.items("nodes")[cluster.get_pod(pod)["status"]["boundNodeName"]]


def test_pods_with_resources_run_on_the_cheapest_type_that_fits(chosen: Cluster) -> None:
    chosen.when_running(*CHOSEN, "by-pattern", timeout_s=60)
    for name, (_, instance_type, mode, price) in CHOSEN.items():
        node = node_of(chosen, name)
        assert node["spec"]["instanceType"] == instance_type
        assert node["spec"].get("cpuCredits") == mode
        assert node["status"]["priceUSDHour"] == price
    assert node_of(chosen, "by-pattern")["spec"]["instanceType"] == "c5a.xlarge"


def test_a_pod_that_nothing_fits_says_what_would(chosen: Cluster) -> None:
    pod = chosen.when_pod("too-big", lambda it: it["status"].get("reason") == "NoInstanceTypeFits", "refused")
    assert pod["status"]["phase"] == "Waiting"
    assert "largest memory in us-east-1 is 32768 GiB" in pod["status"]["message"]
    described = chosen.ok("milpactl", "describe", "pod", "too-big")
    assert "pod-unschedulable" in described
    chosen.delete("too-big", *CHOSEN, "by-pattern")


def test_what_is_full_gives_the_next_type_and_preferred_spot_goes_on_demand(cluster: Cluster) -> None:
    cluster.fault("set", "no-capacity", "--type", "c6a.large")
    cluster.fault("set", "no-capacity", "--type", "c7a.medium", "--spot")
    try:
        cluster.create(
            cluster.pod("next-type", resources={"cpu": "2", "memory": "2Gi", "dedicatedCPU": True}),
            cluster.pod("no-spot", instanceType="c7a.medium", spot={"policy": "preferred"}),
        )
        cluster.when_running("next-type", "no-spot", timeout_s=60)
    finally:
        cluster.fault("clear")
    assert node_of(cluster, "next-type")["spec"]["instanceType"] == "c5a.large"
    assert not node_of(cluster, "no-spot")["spec"].get("spot", False)
    assert cluster.get_pod("no-spot")["status"]["spotFailure"] is True
    assert "start-spot-failed" in cluster.ok("milpactl", "describe", "pod", "no-spot")
    cluster.delete("next-type", "no-spot")
