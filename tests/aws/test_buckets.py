"""The published buckets, to the number, under a clock of the test's."""

import pytest

from tests.aws.buckets import EC2_LIMITS, Throttle, kind_of
from tests.aws.calls import Call


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def ec2(action: str, region: str = "us-east-1", **parameters: str) -> Call:
    return Call("ec2", action, region, "POST", "/", parameters=parameters)


def passed(throttle: Throttle, call: Call, tries: int) -> int:
    return sum(throttle.refuse(call) is None for _ in range(tries))


@pytest.mark.parametrize(
    ("action", "size", "refill"),
    [
        ("RunInstances", 5, 2),
        ("TerminateInstances", 100, 5),
        ("CreateTags", 100, 10),
        ("DescribeInstances", 100, 20),
        ("AuthorizeSecurityGroupIngress", 50, 5),
    ],
)
def test_a_bucket_lets_its_size_pass_at_once_and_then_its_refill_per_second(
    action: str, size: int, refill: int
) -> None:
    clock = Clock()
    throttle = Throttle(clock)
    assert passed(throttle, ec2(action), size + 50) == size
    clock.now += 1.0
    assert passed(throttle, ec2(action), size + 50) == refill
    clock.now += 1000.0
    assert passed(throttle, ec2(action), size + 50) == size, "it never holds more than its size"


def test_a_launch_takes_as_many_instances_as_it_asks_for() -> None:
    clock = Clock()
    throttle = Throttle(clock)
    assert throttle.refuse(ec2("RunInstances", MaxCount="600")) is None
    refused = throttle.refuse(ec2("RunInstances", MaxCount="401"))
    assert refused is not None
    assert (refused.status, refused.code) == (503, "RequestLimitExceeded")
    assert throttle.refuse(ec2("RunInstances", MaxCount="400")) is None
    clock.now += 2.0
    assert throttle.refuse(ec2("RunInstances", MaxCount="5")) is not None, "2 instances a second"
    assert throttle.refuse(ec2("RunInstances", MaxCount="4")) is None


def test_kinds_and_regions_have_buckets_of_their_own() -> None:
    throttle = Throttle(Clock())
    assert passed(throttle, ec2("RunInstances"), 10) == 5
    assert passed(throttle, ec2("DescribeSubnets"), 60) == 60
    assert passed(throttle, ec2("DescribeInstances"), 60) == 40, "all Describe calls share one"
    assert passed(throttle, ec2("RunInstances", region="eu-west-1"), 10) == 5
    assert kind_of("GetConsoleOutput") == "Describe"
    assert set(EC2_LIMITS) >= {kind_of(action) for action in ("ModifyVolume", "CreateTags", "RunInstances")}


def test_route53_takes_five_a_second_and_others_are_not_throttled() -> None:
    clock = Clock()
    throttle = Throttle(clock)
    change = Call("route53", "ChangeResourceRecordSets", "us-east-1", "POST", "/2013-04-01/hostedzone/Z1/rrset")
    assert passed(throttle, change, 9) == 5
    refused = throttle.refuse(change)
    assert refused is not None
    assert (refused.status, refused.code) == (400, "Throttling")
    clock.now += 1.0
    assert passed(throttle, change, 9) == 5
    assert passed(throttle, Call("dynamodb", "PutItem", "us-east-1", "POST", "/"), 300) == 300
