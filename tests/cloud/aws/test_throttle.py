"""Buckets against a loop whose time jumps to the next timer: no test waits for real."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any

import pytest

from cloud.aws.throttle import EC2_DESCRIBE, EC2_OTHER, LIMITS, Bucket, Limit, Pace, bucket_of


class _JumpingSelector(selectors.SelectSelector):
    """Instead of waiting, it moves the loop's clock on."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        found = super().select(0)
        if not found and timeout:
            self.now += timeout
        return found


def run(work: Coroutine[Any, Any, float]) -> float:
    selector = _JumpingSelector()
    loop = asyncio.SelectorEventLoop(selector)
    loop.time = lambda: 1.0 + selector.now  # type: ignore[method-assign]
    try:
        return loop.run_until_complete(work)
    finally:
        loop.close()


async def _elapsed(works: list[Coroutine[Any, Any, None]]) -> float:
    loop = asyncio.get_running_loop()
    start = loop.time()
    await asyncio.gather(*works)
    return loop.time() - start


def test_a_full_bucket_lets_its_size_pass_at_once_and_then_its_refill() -> None:
    async def take(count: int) -> float:
        bucket = Bucket(Limit(5, 2))
        return await _elapsed([bucket.take() for _ in range(count)])

    assert run(take(5)) == 0
    assert run(take(9)) == pytest.approx(2.0)


def test_more_than_a_bucket_holds_is_let_through_when_it_is_full() -> None:
    async def take() -> float:
        bucket = Bucket(Limit(10, 2))
        return await _elapsed([bucket.take(50), bucket.take(50)])

    assert run(take()) == pytest.approx(5.0)


def test_who_asks_first_is_served_first() -> None:
    async def order() -> float:
        bucket, served = Bucket(Limit(1, 1)), []

        async def take(name: int, tokens: float) -> None:
            await bucket.take(tokens)
            served.append(name)

        await asyncio.gather(*(take(i, 1.0) for i in range(4)))
        assert served == [0, 1, 2, 3]
        return 0.0

    run(order())


def test_a_throttle_from_outside_empties_the_bucket() -> None:
    async def take() -> float:
        pace = Pace()
        await pace.wait("ec2", "TerminateInstances")
        pace.throttled("ec2", "TerminateInstances")
        return await _elapsed([pace.wait("ec2", "TerminateInstances")])

    assert run(take()) == pytest.approx(1 / LIMITS["ec2 TerminateInstances"].refill_per_s)


def test_launches_are_paced_by_their_instances_too() -> None:
    async def launch() -> float:
        pace = Pace()
        return await _elapsed([pace.wait("ec2", "RunInstances", 100) for _ in range(11)])

    # 1,000 instances at once, the last 100 at 2 a second; requests alone would be done after 3 s.
    assert run(launch()) == pytest.approx(50.0)


@pytest.mark.parametrize(
    ("service", "operation", "bucket"),
    [
        ("ec2", "RunInstances", "ec2 RunInstances"),
        ("ec2", "CreateTags", "ec2 CreateTags"),
        ("ec2", "DescribeInstances", EC2_DESCRIBE),
        ("ec2", "GetConsoleOutput", EC2_DESCRIBE),
        ("ec2", "ModifyVolume", EC2_OTHER),
        ("route53", "ListHostedZonesByName", "route53"),
        ("dynamodb", "PutItem", ""),
    ],
)
def test_each_call_has_its_bucket(service: str, operation: str, bucket: str) -> None:
    assert bucket_of(service, operation) == bucket
