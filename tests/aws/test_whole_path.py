"""Milpa whole on the AWS API: from ``milpa up`` to pods that run on instances that RunInstances launched, with the real
agent started from its user data, through what EC2 may answer, to an account that is empty again.
"""

import os
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from milpa_ray.planner.garbage import BATCH_TAG, CLUSTER_TAG, UUID_TAG
from tests.aws.account import ZONES
from tests.aws.bench import Bench, running_bench, tags_of
from tests.aws.faults import Effect
from tests.aws.hypervisor import Hypervisor
from tests.aws.moto_server import MotoServer
from tests.e2e.drills import all_units_run
from tests.waiting import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

RUNS_WITHIN_S = 60.0
CHANGES = ("RunInstances", "TerminateInstances")
SMALL = {"resources": {"cpu": "0.1"}}
UNSEEN_S = 75.0
CHEAPEST = "t3a.nano"
"""What ``SMALL`` gets in us-east-1."""


@pytest.fixture(scope="module")
def shared(moto: MotoServer) -> Iterator[Bench[Hypervisor]]:
    with tempfile.TemporaryDirectory(prefix="milpa-aws-") as text, running_bench(Path(text), moto) as made:
        yield made


@pytest.fixture
def bench(shared: Bench[Hypervisor]) -> Iterator[Bench[Hypervisor]]:
    """The bench; afterwards every instance is accounted for, nothing is scripted, and none runs any more."""
    yield shared
    shared.proxy.relent()
    bound = {pod["status"].get("boundInstanceID") for pod in shared.milpa.items("pods").values()}
    wait_until(lambda: shared.running().keys() <= bound, 30, "no instance runs that no pod is bound to")
    shared.delete_all()


def test_pods_run_on_instances_of_one_launch_and_leave_nothing(bench: Bench[Hypervisor]) -> None:
    milpa = bench.milpa
    names = ["one", "two", "three"]
    milpa.create(*(milpa.pod(name, labels={"app": "whole"}) for name in names))
    milpa.when_running(*names, timeout_s=RUNS_WITHIN_S)
    running = bench.running()
    assert {bench.instance_of(name) for name in names} == set(running)
    assert sum(seen.wanted.most for seen in bench.launches() if seen.wanted) == len(names)
    for instance in running.values():
        tags = tags_of(instance)
        assert tags[CLUSTER_TAG] == bench.name
        assert tags[UUID_TAG]
        assert tags[BATCH_TAG] == instance["ClientToken"]
        assert instance["MetadataOptions"]["HttpTokens"] == "required"
        assert instance["MetadataOptions"]["HttpPutResponseHopLimit"] == 1
        assert instance["SubnetId"] in bench.account.subnets.values()
        assert instance["ImageId"] == bench.account.image
    assert milpa.ok("milpactl", "logs", "one") == "started\n"
    wait_until(lambda: all(tags_of(one).get("app") == "whole" for one in bench.running().values()), 20, "labelled")
    assert all(tags_of(one).get("Name") for one in bench.running().values())

    milpa.delete("one")
    wait_until(lambda: len(bench.running()) == 2, 30, "its instance is terminated")
    assert {bench.instance_of(name) for name in names[1:]} == set(bench.running())


def test_a_lost_response_launches_nothing_twice(bench: Bench[Hypervisor]) -> None:
    before, since = len(bench.instances()), time.monotonic()
    rule = bench.proxy.lose_response("RunInstances", times=2)
    bench.milpa.create(bench.milpa.pod("lost"))
    bench.milpa.when_running("lost", timeout_s=RUNS_WITHIN_S)
    assert rule.struck == 2
    assert [seen.code for seen in bench.launches(since)] == ["lost", "lost", ""]
    assert len(bench.instances()) == before + 1


@pytest.mark.parametrize("effect", [pytest.param(Effect.LOSE_REQUEST, marks=pytest.mark.slow), Effect.PASS])
def test_a_coordinator_killed_between_intent_and_launch(bench: Bench[Hypervisor], effect: Effect) -> None:
    """The call is held when the coordinator dies. Whether it is then lost or still takes effect, one instance is what
    its successor finds or launches."""
    before, name = len(bench.instances()), f"orphan-{effect.name.lower().replace('_', '-')}"
    rule = bench.proxy.hold("RunInstances", effect)
    bench.milpa.create(bench.milpa.pod(name))
    assert rule.entered.wait(30)
    pid = bench.milpa.controller("coordinator")["pid"]
    os.kill(pid, signal.SIGKILL)
    bench.milpa.when_ready("coordinator", not_pid=pid, timeout_s=30)
    rule.release()
    bench.milpa.when_running(name, timeout_s=RUNS_WITHIN_S)
    assert len(bench.instances()) == before + 1
    assert set(bench.running()) == {bench.instance_of(name)}


@pytest.mark.slow
def test_no_capacity_in_a_zone_takes_the_next_and_then_the_next_type(bench: Bench[Hypervisor]) -> None:
    offered, left = [zone for zone in ZONES if zone != "us-east-1e"], "us-east-1d"
    for zone in set(offered) - {left}:
        bench.proxy.shortage(instance_type=CHEAPEST, zone=zone)
    since = time.monotonic()
    bench.milpa.create(bench.milpa.pod("narrow", **SMALL))
    bench.milpa.when_running("narrow", timeout_s=RUNS_WITHIN_S)
    tried = bench.launches(since)
    assert all(seen.code == "InsufficientInstanceCapacity" for seen in tried[:-1])
    assert tried[-1].wanted is not None
    assert (tried[-1].wanted.instance_type, tried[-1].wanted.zone) == (CHEAPEST, left)
    zones = Counter(seen.wanted.zone for seen in tried if seen.wanted)
    # The memory and the end of the node may reach a shard in either order, so the first zone may be tried once more.
    assert max(zones.values()) <= 2, "what failed is remembered"

    bench.proxy.shortage(instance_type=CHEAPEST)
    bench.milpa.create(bench.milpa.pod("other", **SMALL))
    bench.milpa.when_running("other", timeout_s=RUNS_WITHIN_S)
    found = bench.running()[bench.instance_of("other")]
    assert found["InstanceType"] != CHEAPEST


@pytest.mark.slow
def test_spot_that_is_preferred_and_not_to_be_had(bench: Bench[Hypervisor]) -> None:
    bench.proxy.shortage(spot=True)
    bench.milpa.create(
        bench.milpa.pod("prefers", spot={"policy": "preferred"}, instanceType="c5.large"),
        bench.milpa.pod("insists", spot={"policy": "always"}, instanceType="c5.large"),
    )
    bench.milpa.when_running("prefers", timeout_s=RUNS_WITHIN_S)
    pod = bench.milpa.get_pod("prefers")
    assert pod["status"]["spotFailure"] is True
    assert "InstanceLifecycle" not in bench.running()[bench.instance_of("prefers")]
    assert "start-spot-failed" in bench.milpa.ok("milpactl", "describe", "pod", "prefers")
    waits = bench.milpa.get_pod("insists")
    assert waits["status"]["phase"] == "Waiting"
    assert set(bench.running()) == {bench.instance_of("prefers")}


@pytest.mark.slow
def test_an_interruption_notice_starts_the_replacement_before_the_end(bench: Bench[Hypervisor]) -> None:
    milpa = bench.milpa
    milpa.create(milpa.pod("moved", spot={"policy": "always"}, **SMALL))
    milpa.when_running("moved", timeout_s=RUNS_WITHIN_S)
    first = bench.instance_of("moved")
    assert bench.running()[first]["InstanceLifecycle"] == "spot"
    noticed = time.monotonic()
    bench.machines.interrupt(first, notice_s=60)

    def moved() -> bool:
        pod = milpa.get_pod("moved")
        return pod["status"].get("boundInstanceID") not in ("", first) and all_units_run(pod)

    wait_until(moved, 60, f"it runs on the replacement\n{milpa.logs()}")
    took = time.monotonic() - noticed
    assert took < 60, f"only {took:.0f} s after the notice"
    wait_until(lambda: first not in bench.running(), 30, "the first is terminated")
    assert len(bench.running()) == 1
    changes = [seen.action for seen in bench.proxy.seen if seen.at >= noticed and seen.action in CHANGES]
    assert changes[:2] == ["RunInstances", "TerminateInstances"], "the replacement came first"


@pytest.mark.slow
@pytest.mark.parametrize("refuse_changes", [False, True])
def test_an_instance_that_the_list_lacks_for_over_a_minute_is_not_taken_for_dead(
    bench: Bench[Hypervisor], refuse_changes: bool
) -> None:
    before, name = len(bench.instances()), f"unseen-{refuse_changes}".lower()
    bench.proxy.lag.refuse_changes = refuse_changes
    bench.proxy.lag.hide_next(UNSEEN_S)
    bench.milpa.create(bench.milpa.pod(name))
    bench.milpa.when_running(name, timeout_s=RUNS_WITHIN_S)
    (instance,) = bench.proxy.lag.hidden()
    assert bench.instance_of(name) == instance, "it runs, although the list lacks it"
    wait_until(lambda: not bench.proxy.lag.hidden(), UNSEEN_S + 10, "the list shows it")
    polled = bench.calls()["DescribeInstances"]
    wait_until(lambda: bench.calls()["DescribeInstances"] >= polled + 3, 30, "three more lists")
    pod = bench.milpa.get_pod(name)
    assert pod["status"]["boundInstanceID"] == instance
    assert all_units_run(pod)
    assert len(bench.instances()) == before + 1
    assert bench.calls()["TerminateInstances"] == 0 or instance in bench.running()
