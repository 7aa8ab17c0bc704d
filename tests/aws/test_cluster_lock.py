"""The register of cluster names against an AWS API server."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from cloud.aws.cluster_lock import DEAD_AFTER, TABLE, ClusterLock
from cloud.aws.session import AwsSession
from milpa_ray.errors import CloudUnavailable, NameTaken
from tests.aws.account import client
from tests.aws.moto_server import MotoServer
from tests.aws.proxy import AwsProxy

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


class SetClock:
    """Shows what it is set to."""

    def __init__(self) -> None:
        self.time = NOON

    def now(self) -> datetime:
        return self.time

    def monotonic(self) -> float:
        return self.time.timestamp()


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def no_table(moto: MotoServer) -> None:
    dynamodb = client("dynamodb", moto.url)
    if TABLE in dynamodb.list_tables()["TableNames"]:
        dynamodb.delete_table(TableName=TABLE)


@pytest.fixture
def lock(aws: AwsSession, clock: SetClock, cluster: str) -> ClusterLock:
    return ClusterLock(aws, cluster, clock, host="alpha")


@pytest.fixture
def other(aws: AwsSession, clock: SetClock, cluster: str) -> ClusterLock:
    """Another installation's, of the same name."""
    return ClusterLock(aws, cluster, clock, host="beta")


async def test_the_table_is_made_when_it_is_missing_and_paid_by_request(
    no_table: None, lock: ClusterLock, moto: MotoServer
) -> None:
    assert await lock.holder() is None
    await lock.hold("uuid-1")
    table = client("dynamodb", moto.url).describe_table(TableName=TABLE)["Table"]
    assert table["BillingModeSummary"]["BillingMode"] == "PAY_PER_REQUEST"
    found = await lock.holder()
    assert found is not None
    assert (found.owner, found.host, found.heard) == ("uuid-1", "alpha", NOON)


async def test_two_that_find_no_table_both_get_through(no_table: None, aws: AwsSession, clock: SetClock) -> None:
    await asyncio.gather(*(ClusterLock(aws, f"t-{name}", clock).hold(name) for name in "ab"))
    assert all([await ClusterLock(aws, f"t-{name}", clock).holder() for name in "ab"])


async def test_a_table_that_is_slow_to_come_is_waited_for(no_table: None, lock: ClusterLock, proxy: AwsProxy) -> None:
    proxy.fail("DescribeTable", "ResourceNotFoundException")
    await lock.hold("uuid-1")
    assert await lock.holder()


async def test_all_controllers_of_a_cluster_hold_its_name_together(
    lock: ClusterLock, other: ClusterLock, clock: SetClock
) -> None:
    await lock.hold("uuid-1")
    clock.time += timedelta(seconds=60)
    await other.hold("uuid-1")
    await lock.hold("uuid-1")
    found = await lock.holder()
    assert found is not None
    assert found.heard == clock.time


async def test_another_cluster_is_refused_and_told_whose_the_name_is(
    lock: ClusterLock, other: ClusterLock, clock: SetClock, cluster: str
) -> None:
    await lock.hold("uuid-1")
    clock.time += timedelta(seconds=42)
    with pytest.raises(NameTaken) as caught:
        await other.hold("uuid-2")
    told = str(caught.value)
    assert f"{cluster!r} is taken" in told
    assert "uuid-1 on host alpha, last heard of 42 s ago" in told
    assert "choose another clusterName" in told
    assert "--take-over-name" not in told
    await lock.hold("uuid-1")


async def test_of_two_that_come_at_once_one_gets_the_name(lock: ClusterLock, other: ClusterLock) -> None:
    outcomes = await asyncio.gather(lock.hold("uuid-1"), other.hold("uuid-2"), return_exceptions=True)
    assert sorted(type(outcome) for outcome in outcomes if outcome is not None) == [NameTaken]


async def test_a_living_holder_is_not_taken_over(lock: ClusterLock, other: ClusterLock, clock: SetClock) -> None:
    await lock.hold("uuid-1")
    clock.time += DEAD_AFTER
    with pytest.raises(NameTaken, match="is alive"):
        await other.take_over("uuid-2")
    await lock.hold("uuid-1")


async def test_a_dead_holder_is_taken_over_and_is_refused_when_it_comes_back(
    lock: ClusterLock, other: ClusterLock, clock: SetClock
) -> None:
    await lock.hold("uuid-1")
    clock.time += DEAD_AFTER + timedelta(seconds=1)
    with pytest.raises(NameTaken, match="--take-over-name"):
        await other.hold("uuid-2")
    await other.take_over("uuid-2")
    with pytest.raises(NameTaken, match="uuid-2 on host beta"):
        await lock.hold("uuid-1")


async def test_a_holder_that_comes_back_while_it_is_taken_over_keeps_its_name(
    lock: ClusterLock, other: ClusterLock, aws: AwsSession, clock: SetClock, proxy: AwsProxy
) -> None:
    await lock.hold("uuid-1")
    clock.time += DEAD_AFTER * 2
    held = proxy.hold("PutItem")
    taking = asyncio.create_task(other.take_over("uuid-2"))
    await asyncio.to_thread(held.entered.wait, 10)
    await lock.hold("uuid-1")  # the rule holds one call only
    held.release()
    with pytest.raises(NameTaken):
        await taking
    await lock.hold("uuid-1")


async def test_taking_over_from_nobody_or_from_oneself_is_holding(lock: ClusterLock) -> None:
    await lock.take_over("uuid-1")
    await lock.take_over("uuid-1")
    found = await lock.holder()
    assert found is not None
    assert found.owner == "uuid-1"


async def test_only_the_owner_gives_the_name_back(lock: ClusterLock, other: ClusterLock) -> None:
    await lock.hold("uuid-1")
    await other.release("uuid-2")
    assert await lock.holder()
    await lock.release("uuid-1")
    await lock.release("uuid-1")
    assert await lock.holder() is None
    await other.hold("uuid-2")


async def test_releasing_without_a_table_does_nothing(no_table: None, lock: ClusterLock) -> None:
    await lock.release("uuid-1")


async def test_a_hold_whose_answer_was_lost_can_be_repeated(lock: ClusterLock, proxy: AwsProxy) -> None:
    proxy.lose_response("PutItem")
    with pytest.raises(CloudUnavailable):
        await lock.hold("uuid-1")
    await lock.hold("uuid-1")


async def test_the_item_of_some_other_program_counts_as_long_dead(
    lock: ClusterLock, moto: MotoServer, cluster: str
) -> None:
    await lock.hold("uuid-1")
    client("dynamodb", moto.url).put_item(
        TableName=TABLE, Item={"clusterName": {"S": cluster}, "owner": {"S": "x"}, "heard": {"S": "long ago"}}
    )
    with pytest.raises(NameTaken, match="cluster x on host unknown"):
        await lock.hold("uuid-1")
    await lock.take_over("uuid-1")
