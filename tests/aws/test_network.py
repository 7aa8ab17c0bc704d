"""Where instances are placed: which VPC, which subnets are public, and what is taken of several."""

from ipaddress import IPv4Network
from typing import Any

import pytest

from cloud.aws.network import Network, Subnet, public_subnets, suitable
from cloud.aws.session import AwsSession
from milpa_ray.errors import CapacityScope, CloudNotReady, NoCapacity
from tests.aws.account import REGION, Account, client, furnish
from tests.aws.proxy import AwsProxy


@pytest.fixture(scope="module")
def mixed(moto: Any) -> Account:
    """A VPC with a public and a private subnet in each zone."""
    return furnish(moto.url, IPv4Network("10.78.0.0/20"), private=True)


@pytest.fixture
def ec2(moto: Any) -> Any:
    return client("ec2", moto.url)


def a_vpc(ec2: Any, *zones: str, block: str = "10.79.0.0/24") -> str:
    """A VPC with nothing but private subnets."""
    vpc: str = ec2.create_vpc(CidrBlock=block)["Vpc"]["VpcId"]
    for zone, network in zip(zones, IPv4Network(block).subnets(new_prefix=28), strict=False):
        ec2.create_subnet(VpcId=vpc, AvailabilityZone=zone, CidrBlock=str(network))
    return vpc


async def test_public_and_private_subnets_are_told_apart(aws: AwsSession, mixed: Account) -> None:
    subnets = await Network(aws, mixed.vpc).subnets()
    assert {s.id for s in subnets if s.public} == set(mixed.subnets.values())
    assert {s.id for s in subnets if not s.public} == set(mixed.private_subnets.values())


async def test_each_kind_of_pod_gets_its_kind_of_subnet(aws: AwsSession, mixed: Account) -> None:
    network, zone = Network(aws, mixed.vpc), f"{REGION}b"
    assert (await network.choose(zone, private=False, count=1)).id == mixed.subnets[zone]
    assert (await network.choose(zone, private=True, count=1)).id == mixed.private_subnets[zone]


async def test_where_all_are_public_private_pods_go_there_too(aws: AwsSession, account: Account) -> None:
    zone = f"{REGION}c"
    assert (await Network(aws, account.vpc).choose(zone, private=True, count=1)).id == account.subnets[zone]


async def test_without_a_public_subnet_public_pods_wait_and_are_told_the_remedy(aws: AwsSession, ec2: Any) -> None:
    network = Network(aws, a_vpc(ec2, f"{REGION}a"))
    with pytest.raises(CloudNotReady, match="privateIPOnly"):
        await network.choose(f"{REGION}a", private=False, count=1)
    assert not (await network.choose(f"{REGION}a", private=True, count=1)).public


async def test_a_zone_without_a_subnet_is_no_capacity_there(aws: AwsSession, ec2: Any) -> None:
    network = Network(aws, a_vpc(ec2, f"{REGION}a", f"{REGION}d"))
    with pytest.raises(NoCapacity, match=f"only in {REGION}a, {REGION}d") as caught:
        await network.choose(f"{REGION}b", private=True, count=1)
    assert (caught.value.code, caught.value.scope) == ("NoSubnet", CapacityScope.SUBNET)


async def test_launches_spread_over_the_subnets_of_any_zone(aws: AwsSession, ec2: Any) -> None:
    network = Network(aws, a_vpc(ec2, f"{REGION}a", f"{REGION}b"))
    chosen = [(await network.choose("", private=True, count=3)).zone for _ in range(6)]
    assert sorted(chosen) == [f"{REGION}a"] * 3 + [f"{REGION}b"] * 3


async def test_a_subnet_whose_addresses_are_used_up_is_full(aws: AwsSession, ec2: Any, proxy: AwsProxy) -> None:
    network = Network(aws, a_vpc(ec2, f"{REGION}a"))
    free = (await network.subnets())[0].free
    await network.choose(f"{REGION}a", private=True, count=free)
    with pytest.raises(NoCapacity) as caught:
        await network.choose(f"{REGION}a", private=True, count=1)
    assert caught.value.scope is CapacityScope.SUBNET
    assert proxy.counts()["DescribeSubnets"] == 1, "what is known is not asked again"


async def test_a_vpc_without_subnets_is_told(aws: AwsSession, ec2: Any) -> None:
    with pytest.raises(CloudNotReady, match="no available IPv4 subnet"):
        await Network(aws, a_vpc(ec2)).choose("", private=False, count=1)


async def test_the_default_vpc_by_its_name(aws: AwsSession, ec2: Any) -> None:
    (default,) = ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]
    assert await Network(aws, "default").vpc_id() == default["VpcId"]


async def test_a_vpc_that_is_not_there_is_told_with_the_setting(aws: AwsSession) -> None:
    with pytest.raises(CloudNotReady, match=r"cloud\.aws\.vpcID: vpc-0+ "):
        await Network(aws, "vpc-00000000000000000").vpc_id()


async def test_without_a_setting_the_controllers_own_vpc_counts(
    aws: AwsSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(CloudNotReady, match=r"vpcID is empty.*'default'"):
        await Network(aws, "").vpc_id()


def test_a_subnet_without_a_table_of_its_own_follows_the_main_one() -> None:
    igw = {"GatewayId": "igw-1", "State": "active"}
    own = {"Routes": [{"GatewayId": "local"}], "Associations": [{"SubnetId": "s1"}]}
    main = {"Routes": [{"GatewayId": "local"}, igw], "Associations": [{"Main": True}]}
    assert public_subnets(["s1", "s2"], [own, main]) == {"s2"}
    assert public_subnets(["s1", "s2"], [own, main | {"Routes": []}]) == set()
    blackhole = main | {"Routes": [igw | {"State": "blackhole"}]}
    assert public_subnets(["s2"], [blackhole]) == set()


def test_nat_gateways_make_no_subnet_public() -> None:
    assert public_subnets(["s1"], [{"Routes": [{"NatGatewayId": "nat-1"}], "Associations": [{"Main": True}]}]) == set()


def test_what_suits() -> None:
    public, private = Subnet("p", "a", True, 9), Subnet("q", "a", False, 9)
    assert suitable([public, private], private=True) == [private]
    assert suitable([public, private], private=False) == [public]
    assert suitable([public], private=True) == [public]
    assert suitable([private], private=False) == []
