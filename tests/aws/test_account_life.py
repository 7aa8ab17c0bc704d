"""Claiming a cluster's name, and cleaning the account when the cluster ends."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cloud.aws.elb import ClassicBalancers
from cloud.aws.groups import SecurityGroups
from cloud.aws.network import Network
from cloud.aws.route53 import PrivateZone
from cloud.aws.session import AwsSession
from milpa_ray.errors import CloudNotReady, MilpaError, NameTaken
from milpa_ray.paths import Home
from milpa_ray.planner.firewall import NODE_GROUP
from milpa_ray.ports import DnsRecord, HealthCheck, Listener, LoadBalancer
from milpa_ray.settings import Settings, parse_settings
from milpa_ray.store.connection import EtcdConfig
from shards import aws_life
from tests.aws.account import KEYS, Account, client
from tests.aws.moto_server import MotoServer
from tests.aws.proxy import AwsProxy
from tests.etcd_server import EtcdServer

pytestmark = pytest.mark.integration


@dataclass
class Installation:
    """A home, its settings and its store."""

    home: Home
    settings: Settings
    etcd: EtcdConfig

    def claim(self, *, take_over: bool = False) -> str:
        aws = self.settings.cloud.aws
        assert aws is not None
        return aws_life.claim_name(self.settings, aws, self.etcd, self.home, take_over=take_over)

    def clean(self) -> list[str]:
        aws = self.settings.cloud.aws
        assert aws is not None
        told: list[str] = []
        aws_life.clean_account(self.settings, aws, self.home, told.append)
        return told


def settings_of(cluster: str, account: Account) -> Settings:
    return parse_settings(
        f"""
apiVersion: v1
clusterName: {cluster}
cloud: {{aws: {{region: us-east-1, vpcID: {account.vpc}}}}}
serviceDiscovery: {{privateDNS: {{ttl: 30}}}}
nodes: {{bootImageTags: {{purpose: milpa-node}}}}
""",
        env={},
    )


@pytest.fixture
def installation(aws: AwsSession, account: Account, cluster: str, etcd_endpoint: str, tmp_path: Path) -> Installation:
    return Installation(Home(tmp_path / "home"), settings_of(cluster, account), EtcdConfig((etcd_endpoint,)))


@pytest.fixture
def other(installation: Installation, tmp_path: Path) -> Iterator[Installation]:
    """Another installation of the same name: a home and a store of its own."""
    folder = tmp_path / "etcd"
    folder.mkdir()
    server = EtcdServer(folder)
    server.start()
    try:
        yield Installation(Home(tmp_path / "other"), installation.settings, EtcdConfig((server.endpoint,)))
    finally:
        server.stop()


def test_a_name_is_claimed_once_and_joined_by_the_same_cluster(installation: Installation, other: Installation) -> None:
    assert "is ours" in installation.claim()
    assert "is ours" in installation.claim()
    follower = Installation(other.home, installation.settings, installation.etcd)
    assert "is ours" in follower.claim()
    with pytest.raises(NameTaken, match="is taken"):
        other.claim()
    with pytest.raises(NameTaken, match="is alive"):
        other.claim(take_over=True)


def test_when_aws_does_not_answer_the_controllers_are_left_to_try(installation: Installation, proxy: AwsProxy) -> None:
    proxy.fail("PutItem", "InternalServerError")
    assert "the controllers go on trying" in installation.claim()
    assert "is ours" in installation.claim()


def test_a_missing_permission_is_told(installation: Installation, proxy: AwsProxy) -> None:
    proxy.fail("PutItem", "AccessDeniedException")
    with pytest.raises(CloudNotReady, match="AccessDeniedException"):
        installation.claim()


def furnish(aws: AwsSession, account: Account, cluster: str, uuid: str) -> None:
    """All kinds of things that a cluster makes."""
    network = Network(aws, account.vpc)
    groups = SecurityGroups(aws, cluster, uuid, network.vpc_id)
    balancers = ClassicBalancers(aws, cluster, uuid, network)

    async def make() -> None:
        group = await groups.set_group(NODE_GROUP, [])
        await PrivateZone(aws, cluster, uuid, network.vpc_id).set_records([DnsRecord("web", "A", ("10.0.0.1",), 30)])
        listeners = (Listener(80, "tcp", 80, "tcp"),)
        await balancers.set_balancer(LoadBalancer("web", listeners, HealthCheck("TCP:80"), security_groups=(group,)))
        tags = [{"Key": "milpa-cluster", "Value": cluster}, {"Key": "milpa-cluster-uuid", "Value": uuid}]
        await aws.call(
            "ec2",
            "RunInstances",
            ImageId=account.image,
            InstanceType="t3.nano",
            MinCount=2,
            MaxCount=2,
            SubnetId=next(iter(account.subnets.values())),
            TagSpecifications=[{"ResourceType": "instance", "Tags": tags}],
        )

    asyncio.run(make())


def running(moto: MotoServer, cluster: str) -> list[str]:
    filters = [
        {"Name": "tag:milpa-cluster", "Values": [cluster]},
        {"Name": "instance-state-name", "Values": ["running", "pending"]},
    ]
    found = client("ec2", moto.url).describe_instances(Filters=filters)["Reservations"]
    return [instance["InstanceId"] for reservation in found for instance in reservation["Instances"]]


def left(moto: MotoServer, cluster: str) -> dict[str, int]:
    elb, ec2 = client("elb", moto.url), client("ec2", moto.url)
    route53, dynamodb = client("route53", moto.url), client("dynamodb", moto.url)
    groups = ec2.describe_security_groups(Filters=[{"Name": "tag:milpa-cluster", "Values": [cluster]}])
    return {
        "instances": len(running(moto, cluster)),
        "groups": len(groups["SecurityGroups"]),
        "zones": sum(zone["Name"] == f"{cluster}.local." for zone in route53.list_hosted_zones()["HostedZones"]),
        "balancers": sum(
            one["LoadBalancerName"] == f"milpa-{cluster}-web"
            for one in elb.describe_load_balancers()["LoadBalancerDescriptions"]
        ),
        "name": "Item" in dynamodb.get_item(TableName="MilpaClusters", Key={"clusterName": {"S": cluster}}),
    }


def noted_uuid(installation: Installation) -> str:
    return str(json.loads((installation.home.data / "aws-cluster.json").read_text())["uuid"])


def test_cleaning_leaves_nothing_of_the_cluster_and_all_of_others(
    installation: Installation, aws: AwsSession, account: Account, moto: MotoServer, cluster: str, proxy: AwsProxy
) -> None:
    installation.claim()
    furnish(aws, account, cluster, noted_uuid(installation))
    assert left(moto, cluster) == {"instances": 2, "groups": 1, "zones": 1, "balancers": 1, "name": 1}
    furnish(aws, account, f"{cluster}x", "another-uuid")
    proxy.fail("DeleteSecurityGroup", "DependencyViolation")
    proxy.fail("TerminateInstances", "InternalError")
    told = installation.clean()
    assert "terminating 2 instances" in told
    assert left(moto, cluster) == {"instances": 0, "groups": 0, "zones": 0, "balancers": 0, "name": 0}
    assert left(moto, f"{cluster}x") == {"instances": 2, "groups": 1, "zones": 1, "balancers": 1, "name": 0}
    before = len(proxy.seen)
    assert installation.clean() == []
    assert len(proxy.seen) == before
    client("ec2", moto.url).terminate_instances(InstanceIds=running(moto, f"{cluster}x"))


def test_what_does_not_go_is_told_and_the_name_is_kept(
    installation: Installation,
    aws: AwsSession,
    account: Account,
    moto: MotoServer,
    cluster: str,
    proxy: AwsProxy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    installation.claim()
    furnish(aws, account, cluster, noted_uuid(installation))
    monkeypatch.setattr(aws_life, "END_TIMEOUT_S", 6.0)
    monkeypatch.setattr(aws_life, "POLL_S", 0.1)
    proxy.fail("DeleteSecurityGroup", "DependencyViolation", times=None)
    with pytest.raises(MilpaError, match=r"security groups are still there .* Run 'milpa down --delete-data' again"):
        installation.clean()
    assert left(moto, cluster)["name"] == 1
    proxy.relent()
    monkeypatch.setattr(aws_life, "END_TIMEOUT_S", 60.0)
    installation.clean()
    assert left(moto, cluster) == {"instances": 0, "groups": 0, "zones": 0, "balancers": 0, "name": 0}


KEPT = r"nothing in the AWS account was deleted, .*data is kept.* --keep-cloud"


def test_an_account_that_cannot_be_reached_is_told_soon(
    installation: Installation, cluster: str, moto: MotoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    installation.claim()
    monkeypatch.setattr(aws_life, "UNREACHABLE_S", 1.0)
    monkeypatch.setattr(aws_life, "POLL_S", 0.1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(MilpaError, match=KEPT) as caught:
        installation.clean()
    assert "http://127.0.0.1:9" in str(caught.value)
    assert noted_uuid(installation) in str(caught.value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto.url)
    assert left(moto, cluster)["name"] == 1
    installation.clean()
    assert left(moto, cluster)["name"] == 0


def test_an_account_without_credentials_is_told_at_once(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    installation.claim()
    for name in KEYS:
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, "/dev/null")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(MilpaError, match=KEPT):
        installation.clean()


def test_an_account_that_ceases_to_answer_is_not_waited_for(
    installation: Installation, proxy: AwsProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    installation.claim()
    monkeypatch.setattr(aws_life, "UNREACHABLE_S", 1.0)
    monkeypatch.setattr(aws_life, "POLL_S", 0.1)
    proxy.fail("DescribeInstances", "ServiceUnavailable", times=None)
    with pytest.raises(MilpaError, match=r"AWS does not answer .*instances.* --keep-cloud"):
        installation.clean()


def test_a_home_that_never_claimed_a_name_cleans_nothing(installation: Installation, proxy: AwsProxy) -> None:
    assert installation.clean() == []
    assert not proxy.seen
