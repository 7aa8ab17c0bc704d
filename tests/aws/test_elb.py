"""Classic load balancers against an AWS API server."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from cloud.aws.elb import ClassicBalancers
from cloud.aws.network import Network
from cloud.aws.session import AwsSession
from milpa_ray.errors import CloudRefused, CloudUnavailable, Invalid
from milpa_ray.ports import BalancerOptions, HealthCheck, Listener, LoadBalancer
from tests.aws.account import Account, client
from tests.aws.moto_server import MotoServer
from tests.aws.proxy import AwsProxy

HTTP = Listener(80, "http", 8080, "http")


@pytest.fixture(scope="session")
def certificates(moto: MotoServer) -> tuple[str, str]:
    """Of two names, in the account."""
    acm = client("acm", moto.url)
    first, second = (acm.request_certificate(DomainName=f"{name}.test")["CertificateArn"] for name in "ab")
    return first, second


@pytest.fixture
def https(certificates: tuple[str, str]) -> Listener:
    return Listener(443, "https", 8080, "https", certificates[0])


@pytest.fixture
def balancers(aws: AwsSession, account: Account, cluster: str, moto: MotoServer) -> Iterator[ClassicBalancers]:
    yield make(aws, account, cluster)
    elb = client("elb", moto.url)
    for told in elb.describe_load_balancers()["LoadBalancerDescriptions"]:
        elb.delete_load_balancer(LoadBalancerName=told["LoadBalancerName"])


def make(aws: AwsSession, account: Account, cluster: str, uuid: str = "uuid-1") -> ClassicBalancers:
    return ClassicBalancers(aws, cluster, uuid, Network(aws, account.vpc))


@pytest.fixture
def group(moto: MotoServer, account: Account, cluster: str) -> str:
    made: str = client("ec2", moto.url).create_security_group(
        GroupName=f"for-{cluster}", Description="x", VpcId=account.vpc
    )["GroupId"]
    return made


@pytest.fixture
def wanted(group: str) -> LoadBalancer:
    return LoadBalancer("web", (HTTP,), HealthCheck("TCP:8080"), security_groups=(group,), internal=False)


def described(moto: MotoServer, cluster: str, service: str = "web") -> dict:
    elb = client("elb", moto.url)
    (told,) = elb.describe_load_balancers(LoadBalancerNames=[f"milpa-{cluster}-{service}"])["LoadBalancerDescriptions"]
    return told


def ports(told: dict) -> list[tuple[int, str, int]]:
    found = [one["Listener"] for one in told["ListenerDescriptions"]]
    return sorted((one["LoadBalancerPort"], one["Protocol"], one["InstancePort"]) for one in found)


async def test_a_load_balancer_is_made_as_it_is_wanted(
    balancers: ClassicBalancers,
    wanted: LoadBalancer,
    moto: MotoServer,
    account: Account,
    cluster: str,
    https: Listener,
) -> None:
    options = BalancerOptions("logs", "lb/web", 5, draining_s=30, idle_timeout_s=45, cross_zone=True)
    check = HealthCheck("TCP:8080", 5, 2, 3, 4)
    full = replace(
        wanted,
        listeners=(HTTP, https),
        instances=frozenset({"i-1"}),
        options=options,
        health_check=check,
        tags={"app": "web"},
    )
    name = await balancers.set_balancer(full)
    told = described(moto, cluster)
    assert told["DNSName"] == name
    assert told["Scheme"] == "internet-facing"
    assert ports(told) == [(80, "HTTP", 8080), (443, "HTTPS", 8080)]
    assert [one["Listener"].get("SSLCertificateId") for one in told["ListenerDescriptions"]] == [
        None,
        https.certificate,
    ]
    assert set(told["Subnets"]) == set(account.subnets.values())
    assert told["SecurityGroups"] == list(wanted.security_groups)
    assert told["Instances"] == [{"InstanceId": "i-1"}]
    assert told["HealthCheck"] == {
        "Target": "TCP:8080",
        "Interval": 5,
        "Timeout": 2,
        "UnhealthyThreshold": 3,
        "HealthyThreshold": 4,
    }
    elb = client("elb", moto.url)
    attributes = elb.describe_load_balancer_attributes(LoadBalancerName=told["LoadBalancerName"])
    attributes = attributes["LoadBalancerAttributes"]
    assert attributes["CrossZoneLoadBalancing"] == {"Enabled": True}
    assert attributes["AccessLog"] == {
        "Enabled": True,
        "S3BucketName": "logs",
        "S3BucketPrefix": "lb/web",
        "EmitInterval": 5,
    }
    assert attributes["ConnectionDraining"] == {"Enabled": True, "Timeout": 30}
    assert attributes["ConnectionSettings"] == {"IdleTimeout": 45}
    tags = elb.describe_tags(LoadBalancerNames=[told["LoadBalancerName"]])["TagDescriptions"][0]["Tags"]
    assert {tag["Key"]: tag["Value"] for tag in tags} == {
        "app": "web",
        "milpa-cluster": cluster,
        "milpa-cluster-uuid": "uuid-1",
        "milpa-service": "web",
    }


async def test_nothing_is_changed_where_nothing_differs(
    balancers: ClassicBalancers, wanted: LoadBalancer, proxy: AwsProxy
) -> None:
    await balancers.set_balancer(replace(wanted, instances=frozenset({"i-1"})))
    before = len(proxy.seen)
    await balancers.set_balancer(replace(wanted, instances=frozenset({"i-1"})))
    assert {seen.action for seen in proxy.seen[before:]} <= {
        "DescribeLoadBalancers",
        "DescribeLoadBalancerAttributes",
        "DescribeTags",
    }


async def test_listeners_come_change_and_go(
    balancers: ClassicBalancers,
    wanted: LoadBalancer,
    moto: MotoServer,
    cluster: str,
    https: Listener,
    certificates: tuple[str, str],
) -> None:
    await balancers.set_balancer(wanted)
    await balancers.set_balancer(replace(wanted, listeners=(replace(HTTP, target_port=9090), https)))
    assert ports(described(moto, cluster)) == [(80, "HTTP", 9090), (443, "HTTPS", 8080)]
    renewed = replace(https, certificate=certificates[1])
    await balancers.set_balancer(replace(wanted, listeners=(renewed,)))
    told = described(moto, cluster)
    assert [one["Listener"]["SSLCertificateId"] for one in told["ListenerDescriptions"]] == [certificates[1]]


async def test_instances_are_put_in_and_taken_out(
    balancers: ClassicBalancers, wanted: LoadBalancer, moto: MotoServer, cluster: str, proxy: AwsProxy
) -> None:
    await balancers.set_balancer(replace(wanted, instances=frozenset({"i-1", "i-2"})))
    before = len(proxy.seen)
    await balancers.set_balancer(replace(wanted, instances=frozenset({"i-2", "i-3"})))
    actions = [seen.action for seen in proxy.seen[before:]]
    assert actions.count("RegisterInstancesWithLoadBalancer") == 1
    assert actions.count("DeregisterInstancesFromLoadBalancer") == 1
    assert {one["InstanceId"] for one in described(moto, cluster)["Instances"]} == {"i-2", "i-3"}


async def test_an_instance_that_is_gone_keeps_no_other_out(
    balancers: ClassicBalancers, wanted: LoadBalancer, moto: MotoServer, cluster: str, proxy: AwsProxy
) -> None:
    await balancers.set_balancer(wanted)
    proxy.fail("RegisterInstances*", "InvalidInstance", message="Could not find EC2 instance i-2.")
    await balancers.set_balancer(replace(wanted, instances=frozenset({"i-1", "i-2"})))
    assert described(moto, cluster)["Instances"] == [{"InstanceId": "i-1"}]
    proxy.fail("RegisterInstances*", "InvalidInstance", message="some other reason")
    with pytest.raises(CloudRefused):
        await balancers.set_balancer(replace(wanted, instances=frozenset({"i-1", "i-2"})))


async def test_one_that_turns_internal_is_made_anew(
    balancers: ClassicBalancers, wanted: LoadBalancer, moto: MotoServer, cluster: str, proxy: AwsProxy
) -> None:
    await balancers.set_balancer(wanted)
    await balancers.set_balancer(replace(wanted, internal=True))
    assert described(moto, cluster)["Scheme"] == "internal"
    assert proxy.counts()["DeleteLoadBalancer"] == 1
    await balancers.set_balancer(wanted)
    assert described(moto, cluster)["Scheme"] == "internet-facing"


async def test_groups_tags_check_and_options_are_brought_in_line(
    balancers: ClassicBalancers,
    wanted: LoadBalancer,
    moto: MotoServer,
    cluster: str,
    account: Account,
) -> None:
    await balancers.set_balancer(replace(wanted, tags={"app": "web", "old": "1"}))
    other = client("ec2", moto.url).create_security_group(
        GroupName=f"other-{cluster}", Description="x", VpcId=account.vpc
    )["GroupId"]
    changed = replace(
        wanted,
        security_groups=(other,),
        tags={"app": "shop"},
        health_check=HealthCheck("HTTP:8080/health"),
        options=BalancerOptions(draining_s=60),
    )
    await balancers.set_balancer(changed)
    told = described(moto, cluster)
    assert told["SecurityGroups"] == [other]
    assert told["HealthCheck"]["Target"] == "HTTP:8080/health"
    elb = client("elb", moto.url)
    tags = elb.describe_tags(LoadBalancerNames=[told["LoadBalancerName"]])["TagDescriptions"][0]["Tags"]
    assert {tag["Key"]: tag["Value"] for tag in tags if not tag["Key"].startswith("milpa")} == {"app": "shop"}
    attributes = elb.describe_load_balancer_attributes(LoadBalancerName=told["LoadBalancerName"])
    assert attributes["LoadBalancerAttributes"]["ConnectionDraining"] == {"Enabled": True, "Timeout": 60}


async def test_a_zone_that_got_a_subnet_is_added(
    aws: AwsSession, balancers: ClassicBalancers, wanted: LoadBalancer, moto: MotoServer, account: Account, cluster: str
) -> None:
    await balancers.set_balancer(wanted)
    elb = client("elb", moto.url)
    kept = next(iter(account.subnets.values()))
    others = [subnet for subnet in account.subnets.values() if subnet != kept]
    elb.detach_load_balancer_from_subnets(LoadBalancerName=f"milpa-{cluster}-web", Subnets=others)
    await balancers.set_balancer(wanted)
    assert set(described(moto, cluster)["Subnets"]) == set(account.subnets.values())


async def test_one_that_was_made_although_the_answer_was_lost_is_finished(
    balancers: ClassicBalancers, wanted: LoadBalancer, moto: MotoServer, cluster: str, proxy: AwsProxy
) -> None:
    proxy.lose_response("CreateLoadBalancer")
    with pytest.raises(CloudUnavailable):
        await balancers.set_balancer(replace(wanted, instances=frozenset({"i-1"})))
    await balancers.set_balancer(replace(wanted, instances=frozenset({"i-1"})))
    assert described(moto, cluster)["Instances"] == [{"InstanceId": "i-1"}]


async def test_only_those_of_our_cluster_are_listed_on_however_many_pages(
    balancers: ClassicBalancers,
    aws: AwsSession,
    account: Account,
    wanted: LoadBalancer,
    cluster: str,
    monkeypatch: pytest.MonkeyPatch,
    proxy: AwsProxy,
) -> None:
    monkeypatch.setattr("cloud.aws.elb.PAGE_SIZE", 2)
    names = ["web", "db", "a-service-with-quite-a-long-name"]
    made = {name: await balancers.set_balancer(replace(wanted, name=name)) for name in names}
    await make(aws, account, cluster, "uuid-2").set_balancer(replace(wanted, name="theirs"))
    before = len(proxy.seen)
    assert await balancers.balancers() == made
    assert [seen.action for seen in proxy.seen[before:]].count("DescribeLoadBalancers") == 2


async def test_one_of_our_name_that_is_anothers_is_left_alone_and_told(
    balancers: ClassicBalancers,
    aws: AwsSession,
    account: Account,
    wanted: LoadBalancer,
    moto: MotoServer,
    cluster: str,
) -> None:
    await make(aws, account, cluster, "uuid-2").set_balancer(wanted)
    with pytest.raises(Invalid, match=f"milpa-{cluster}-web is not of this cluster"):
        await balancers.set_balancer(replace(wanted, listeners=(replace(HTTP, port=81),)))
    with pytest.raises(Invalid, match="not of this cluster"):
        await balancers.remove_balancer("web")
    assert ports(described(moto, cluster)) == [(80, "HTTP", 8080)]


async def test_removing_is_idempotent(balancers: ClassicBalancers, wanted: LoadBalancer) -> None:
    await balancers.set_balancer(wanted)
    await balancers.remove_balancer("web")
    assert await balancers.balancers() == {}
    await balancers.remove_balancer("web")
