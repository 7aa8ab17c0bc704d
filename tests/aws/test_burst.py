"""200 pods at once under EC2's published throttle: how many calls they cost, with answers lost on the way; beside it
the naive way, one call per instance.
"""

import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from tests.aws.account import Account, client
from tests.aws.bench import Bench, hollow_bench, running_bench
from tests.aws.moto_server import MotoServer
from tests.aws.proxy import AwsProxy
from tests.aws.rack import HollowRack
from tests.waiting import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(600)]

PODS = 200
REAL = 50
NAIVE = 40
"""Launches of the naive comparison, which takes (launches - 5) / 2 seconds at the least."""
LOST = 2
LATE = 3
"""Calls that may be refused although they were sent in time: on their way they draw closer to each other."""


@pytest.fixture(scope="module")
def bench(moto: MotoServer) -> Iterator[Bench[HollowRack]]:
    with tempfile.TemporaryDirectory(prefix="milpa-aws-") as text, hollow_bench(Path(text), moto) as made:
        yield made


async def test_200_pods_at_once_with_lost_responses(bench: Bench[HollowRack]) -> None:
    milpa = bench.milpa
    since = time.monotonic()
    rule = bench.proxy.lose_response("RunInstances", times=LOST)
    names = [f"burst-{number:03}" for number in range(PODS)]
    milpa.create(*(milpa.pod(name) for name in names))
    milpa.when_running(*names, timeout_s=180)
    up_s = time.monotonic() - since
    assert rule.struck == LOST
    bound = [pod["status"]["boundInstanceID"] for pod in milpa.items("pods").values()]
    assert len(set(bound)) == PODS
    assert set(bound) == set(bench.running())
    assert len(bench.instances()) == PODS, "none was launched twice, none leaked"
    starting = bench.calls(since)
    codes = Counter(seen.code for seen in bench.launches(since))
    stats = await bench.machines.stats()
    assert (stats["starts"], stats["repeated"]) == (PODS, {})

    deleting = time.monotonic()
    bench.delete_all(timeout_s=180)
    down_s = time.monotonic() - deleting
    ending = bench.calls(deleting)
    assert len(bench.instances()) == PODS
    print(f"\n{PODS} pods running after {up_s:.1f} s: {dict(starting)}, RunInstances by code {dict(codes)}")
    print(f"deleted, no instance left, after {down_s:.1f} s: {dict(ending)}")
    refused = [seen.action for seen in bench.proxy.seen if seen.code in ("RequestLimitExceeded", "Throttling")]
    print(f"refused for their rate: {refused}")
    assert len(refused) <= LATE, "our own pace keeps to the limits"
    assert starting["RunInstances"] <= 12 + LOST
    assert ending["TerminateInstances"] <= 40


def test_real_agents_of_a_burst(moto: MotoServer) -> None:
    """As many machines as one can boot here in reasonable time, each with its own real agent."""
    with tempfile.TemporaryDirectory(prefix="milpa-aws-") as text, running_bench(Path(text), moto) as bench:
        milpa, since = bench.milpa, time.monotonic()
        bench.proxy.lose_response("RunInstances", times=LOST)
        names = [f"real-{number:02}" for number in range(REAL)]
        milpa.create(*(milpa.pod(name) for name in names))
        milpa.when_running(*names, timeout_s=400)
        print(
            f"\n{REAL} pods on real agents running after {time.monotonic() - since:.1f} s: {dict(bench.calls(since))}"
        )
        assert {pod["status"]["boundInstanceID"] for pod in milpa.items("pods").values()} == set(bench.running())
        assert len(bench.instances()) == REAL
        bench.delete_all(timeout_s=180)
        assert len(bench.instances()) == REAL


def test_the_naive_way_takes_a_call_per_instance(proxy: AwsProxy, account: Account) -> None:
    ec2 = client("ec2", proxy.url)
    made: list[str] = []

    def launch_one() -> bool:
        """False when it was throttled."""
        try:
            answer = ec2.run_instances(
                ImageId=account.image,
                InstanceType="t3.nano",
                MinCount=1,
                MaxCount=1,
                SubnetId=account.subnets["us-east-1a"],
            )
        except ClientError as error:
            if error.response["Error"]["Code"] != "RequestLimitExceeded":
                raise
            return False
        made.append(answer["Instances"][0]["InstanceId"])
        return True

    began = time.monotonic()
    for _ in range(NAIVE):
        wait_until(launch_one, 30)
    took = time.monotonic() - began
    calls = proxy.counts()["RunInstances"]
    ec2.terminate_instances(InstanceIds=made)
    print(f"\nnaive: {NAIVE} instances in {took:.1f} s by {calls} RunInstances calls, {calls - NAIVE} of them refused")
    print(f"naive: {PODS} would take {(PODS - 5) / 2:.0f} s at the least")
    assert calls > NAIVE
    assert took > (NAIVE - 5) / 2 - 1
