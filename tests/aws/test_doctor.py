"""``milpa doctor`` on an AWS API server: what it finds in a good account, and what it says of what is wrong."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cloud.aws.cluster_lock import DEAD_AFTER, ClusterLock
from cloud.aws.doctor_network import check_route
from cloud.aws.findings import Survey
from cloud.aws.session import AwsSession
from milpa_ray.clock import SystemClock
from tests.aws.account import IMAGE_TAGS, KEYS, REGION, Account, client
from tests.aws.examining import READS, examined, settings_for, state_of, use_bench
from tests.aws.moto_server import MotoServer
from tests.aws.proxy import AwsProxy
from tests.nodeagent.metadata_server import metadata_server

NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def environment(proxy: AwsProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    use_bench(proxy, monkeypatch)


async def test_a_good_account(account: Account, cluster: str) -> None:
    found = await examined(settings_for(cluster, account.vpc), thorough=True)
    states = {name: state_of(finding) for name, finding in found.items()}
    # The proxy tells no time, and moto no quotas of EC2.
    advice = {
        "clock": "warn",
        "way to the nodes": "warn",
        "quota: on-demand vCPUs": "warn",
        "quota: spot vCPUs": "warn",
    }
    assert {name: state for name, state in states.items() if state != "ok" and name != "prices"} == advice
    assert "123456789012" in found["credentials"].detail
    assert account.image in found["boot image amd64"].detail
    assert "6 in us-east-1a," in found["public subnets"].detail
    assert found["quota: rules per security group"].detail == "60"
    assert re.fullmatch(r"\d+ of 2500 in use", found["quota: security groups per region"].detail)


async def test_nothing_is_changed(account: Account, cluster: str, proxy: AwsProxy, moto: MotoServer) -> None:
    before = _inventory(moto)
    await examined(settings_for(cluster, account.vpc), thorough=True)
    took_effect = {seen.action for seen in proxy.seen if not seen.code and not seen.action.startswith(READS)}
    assert took_effect <= {"DeleteLoadBalancer"}, "deleting what is not there is no error"
    assert _inventory(moto) == before


def _inventory(moto: MotoServer) -> dict[str, Any]:
    ec2, route53, elb = (client(service, moto.url) for service in ("ec2", "route53", "elb"))
    return {
        "groups": sorted(group["GroupId"] for group in ec2.describe_security_groups()["SecurityGroups"]),
        "instances": [one["Instances"] for one in ec2.describe_instances()["Reservations"]],
        "tags": len(ec2.describe_tags()["Tags"]),
        "zones": [zone["Id"] for zone in route53.list_hosted_zones()["HostedZones"]],
        "balancers": elb.describe_load_balancers()["LoadBalancerDescriptions"],
        "tables": sorted(client("dynamodb", moto.url).list_tables()["TableNames"]),
    }


async def test_a_start_asks_little(account: Account, cluster: str, proxy: AwsProxy) -> None:
    found = await examined(settings_for(cluster, account.vpc))
    assert "permissions" not in found
    assert sum(proxy.counts().values()) < 12


@pytest.mark.parametrize(
    ("code", "remedy"), [("InvalidClientTokenId", "accessKeyID"), ("ServiceUnavailable", "AWS_ENDPOINT_URL")]
)
async def test_without_an_identity_nothing_else_is_asked(
    account: Account, cluster: str, proxy: AwsProxy, code: str, remedy: str
) -> None:
    proxy.fail("GetCallerIdentity", code, times=None)
    found = await examined(settings_for(cluster, account.vpc), thorough=True)
    assert list(found) == ["credentials"]
    assert state_of(found["credentials"]) == "FAIL"
    assert code in found["credentials"].detail
    assert remedy in found["credentials"].remedy
    assert set(proxy.counts()) == {"GetCallerIdentity"}


async def test_a_start_is_not_hindered_by_what_running_pods_do_without(
    account: Account, cluster: str, proxy: AwsProxy
) -> None:
    settings = settings_for(cluster, account.vpc, {"purpose": "other"})
    assert state_of((await examined(settings))["boot image amd64"]) == "warn"
    proxy.fail("DescribeSubnets", "UnauthorizedOperation")
    assert state_of((await examined(settings))["subnets"]) == "warn"
    proxy.fail("GetCallerIdentity", "ServiceUnavailable")
    assert state_of((await examined(settings))["credentials"]) == "warn"
    proxy.fail("GetCallerIdentity", "AuthFailure")
    assert state_of((await examined(settings))["credentials"]) == "FAIL"


async def test_an_endpoint_that_does_not_answer(
    account: Account, cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", NOWHERE)
    found = await examined(settings_for(cluster, account.vpc))
    assert list(found) == ["credentials"]
    assert NOWHERE in found["credentials"].detail


async def test_an_endpoint_that_is_no_url(account: Account, cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "nonsense")
    found = await examined(settings_for(cluster, account.vpc))
    assert list(found) == ["AWS endpoint"]
    assert state_of(found["AWS endpoint"]) == "FAIL"
    assert "AWS_ENDPOINT_URL" in found["AWS endpoint"].detail


async def test_the_permissions_are_good_only_when_all_are_there(
    account: Account, cluster: str, proxy: AwsProxy
) -> None:
    proxy.fail("ModifyVolume", "UnauthorizedOperation")
    found = await examined(settings_for(cluster, account.vpc), thorough=True)
    assert state_of(found["permissions"]) == "FAIL"
    proxy.fail("ModifyVolume", "ServiceUnavailable")
    found = await examined(settings_for(cluster, account.vpc), thorough=True)
    assert state_of(found["permissions"]) == "warn"
    assert "1 could not be tested" in found["permissions"].detail


async def test_no_credentials_at_all(
    account: Account, cluster: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in KEYS:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    found = await examined(settings_for(cluster, account.vpc))
    assert "Unable to locate credentials" in found["credentials"].detail
    assert "AWS_ACCESS_KEY_ID" in found["credentials"].remedy


@pytest.mark.parametrize(("ahead_s", "state"), [(0, "ok"), (90, "warn"), (-90, "warn"), (600, "FAIL")])
async def test_clock(
    account: Account, cluster: str, moto: MotoServer, monkeypatch: pytest.MonkeyPatch, ahead_s: int, state: str
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto.url)  # the proxy leaves the time out
    found = await examined(settings_for(cluster, account.vpc), ahead_s=ahead_s)
    assert state_of(found["clock"]) == state
    said = {-90: "behind AWS", 0: "agrees with AWS"}.get(ahead_s, "ahead of AWS")
    assert said in found["clock"].detail


async def test_a_vpc_that_does_not_exist(account: Account, cluster: str) -> None:
    found = await examined(settings_for(cluster, "vpc-0123"))
    assert state_of(found["VPC"]) == "FAIL"
    assert "vpc-0123 does not exist" in found["VPC"].detail
    assert "public subnets" not in found


async def test_a_vpc_without_subnets(moto: MotoServer, cluster: str, account: Account) -> None:
    vpc = client("ec2", moto.url).create_vpc(CidrBlock="10.99.0.0/24")["Vpc"]["VpcId"]
    found = await examined(settings_for(cluster, vpc), thorough=True)
    assert state_of(found["subnets"]) == "FAIL"


async def test_a_vpc_with_little_room_and_no_way_out(moto: MotoServer, cluster: str, account: Account) -> None:
    ec2 = client("ec2", moto.url)
    vpc = ec2.create_vpc(CidrBlock="10.98.0.0/24")["Vpc"]["VpcId"]
    ec2.create_subnet(VpcId=vpc, AvailabilityZone="us-east-1b", CidrBlock="10.98.0.0/28")
    found = await examined(settings_for(cluster, vpc))
    assert "privateIPOnly" in found["public subnets"].detail
    assert found["private subnets"].detail == "1 in us-east-1b; 11 free addresses"
    assert (state_of(found["public subnets"]), state_of(found["private subnets"])) == ("warn", "warn")


@pytest.mark.parametrize(
    ("tags", "reason"), [({"purpose": "other"}, "purpose=other"), ({}, "nodes.bootImageTags is empty")]
)
async def test_no_boot_image(account: Account, cluster: str, tags: dict[str, str], reason: str) -> None:
    found = (await examined(settings_for(cluster, account.vpc, tags), thorough=True))["boot image amd64"]
    assert state_of(found) == "FAIL"
    assert reason in found.detail


async def test_the_default_types_architecture_needs_the_image(account: Account, cluster: str) -> None:
    found = await examined(settings_for(cluster, account.vpc, defaultInstanceType="t4g.nano"), thorough=True)
    assert (state_of(found["boot image arm64"]), state_of(found["boot image amd64"])) == ("FAIL", "ok")


async def test_whose_the_name_is(account: Account, cluster: str, aws: AwsSession) -> None:
    settings = settings_for(cluster, account.vpc)
    assert "is free" in (await examined(settings))["cluster name"].detail
    await ClusterLock(aws, cluster, SystemClock(), host="alpha").hold("uuid-1")
    held = (await examined(settings))["cluster name"]
    assert held.ok
    assert "cluster uuid-1 on host alpha" in held.detail
    later = DEAD_AFTER.total_seconds() + 60
    dead = (await examined(settings, ahead_s=later))["cluster name"]
    assert state_of(dead) == "warn"
    assert "--take-over-name" in dead.remedy


async def test_the_way_to_the_nodes(
    account: Account, cluster: str, aws: AwsSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_for(cluster, account.vpc)
    assert settings.cloud.aws is not None
    survey = Survey(aws, settings, settings.cloud.aws, SystemClock(), None, vpc=account.vpc)
    assert [(state_of(one), "nor in any other VPC" in one.detail) async for one in check_route(survey)] == [
        ("warn", True)
    ]
    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
    with metadata_server() as server:
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", server.endpoint)
        server.answers["meta-data/mac"] = b"02:00:00:00:00:01"
        for vpc, state in ((account.vpc, "ok"), ("vpc-other", "warn")):
            server.answers["meta-data/network/interfaces/macs/02:00:00:00:00:01/vpc-id"] = vpc.encode()
            assert [(state_of(one), vpc in one.detail) async for one in check_route(survey)] == [(state, True)]


# ------------------------------------------------------------ the command


def _milpa(folder: Path, config: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cli.milpa", "doctor", "--home", str(folder), "--config", str(config), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.fixture
def config(tmp_path: Path, account: Account, cluster: str) -> Path:
    path = tmp_path / "server.yml"
    lines = [f"clusterName: {cluster}", f"cloud: {{aws: {{region: {REGION}, vpcID: {account.vpc}}}}}"]
    path.write_text("\n".join([*lines, f"nodes: {{bootImageTags: {json.dumps(IMAGE_TAGS)}}}", ""]))
    return path


def test_the_command(config: Path, tmp_path: Path, proxy: AwsProxy) -> None:
    done = _milpa(tmp_path, config, "--cloud", "aws", "-o", "json")
    assert done.returncode == 0, done.stderr
    found = {check["name"]: check for check in json.loads(done.stdout)}
    assert {"settings", "etcd", "credentials", "VPC", "permissions"} <= found.keys()
    assert "home" not in found
    proxy.fail("ModifyVolume", "UnauthorizedOperation", times=None)
    done = _milpa(tmp_path, config, "--cloud", "aws")
    assert done.returncode == 1
    assert re.search(r"^FAIL +ec2:ModifyVolume +denied$", done.stdout, re.MULTILINE)
    assert "ec2:ModifyVolume: allow it: docs/iam-policy.json" in done.stdout
    assert "2 of" in done.stderr
    assert "permissions, ec2:ModifyVolume" in done.stderr


def test_the_other_cloud(tmp_path: Path) -> None:
    config = tmp_path / "server.yml"
    config.write_text("clusterName: c\n")
    done = _milpa(tmp_path, config, "--cloud", "aws")
    assert done.returncode == 1
    assert f"{config} chooses local, not aws" in done.stdout
    done = _milpa(tmp_path, config, "--cloud", "gcp")
    assert done.returncode == 2
    assert "there are 'aws' and 'local'" in done.stderr
