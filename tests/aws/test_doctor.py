"""``milpa doctor`` on an AWS API server: what it finds in a good account, and what it says of what is wrong."""

import json
import os
import re
import secrets
import subprocess
import sys
import urllib.request
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cloud.aws.cluster_lock import DEAD_AFTER, ClusterLock
from cloud.aws.doctor import REFRESH, examine
from cloud.aws.doctor_network import check_route
from cloud.aws.findings import Finding, Survey
from cloud.aws.permissions import NO_BALANCER, UNTESTED, Scene, probes
from cloud.aws.session import AwsSession
from milpa_ray.clock import SystemClock
from milpa_ray.settings import ServiceDiscovery, Settings
from tests.aws.account import IMAGE_TAGS, KEYS, REGION, Account, client
from tests.aws.moto_server import MotoServer
from tests.aws.proxy import AwsProxy
from tests.nodeagent.metadata_server import metadata_server

NOWHERE = "http://127.0.0.1:9"
READS = ("Describe", "Get", "List")
BROKEN = frozenset(
    {
        "AttachLoadBalancerToSubnets",
        "ConfigureHealthCheck",
        "DeleteLoadBalancerListeners",
        "DeregisterInstancesFromLoadBalancer",
        "DescribeLoadBalancerAttributes",
        "ModifyLoadBalancerAttributes",
        "RegisterInstancesWithLoadBalancer",
    }
)
"""Moto breaks when it has no such load balancer; the proxy answers as AWS does."""
FORGIVING = frozenset({"CreateLoadBalancerListeners", "SetLoadBalancerListenerSSLCertificate"})
"""Moto calls it success when it has no such load balancer; again the proxy answers."""


class ShiftedClock(SystemClock):
    """Goes wrong by a constant."""

    def __init__(self, by: timedelta) -> None:
        self._by = by

    def now(self) -> datetime:
        return datetime.now(UTC) + self._by


@pytest.fixture(autouse=True)
def environment(proxy: AwsProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours: the credentials and endpoint of the bench, and no metadata service."""
    proxy.throttle = None
    for action in BROKEN | FORGIVING:
        proxy.fail(action, "LoadBalancerNotFound", times=None, fits=lambda call: NO_BALANCER.encode() in call.body)
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in {**KEYS, "AWS_ENDPOINT_URL": proxy.url, "AWS_EC2_METADATA_DISABLED": "true"}.items():
        monkeypatch.setenv(name, value)


def _settings(cluster: str, vpc: str, tags: dict[str, str] = IMAGE_TAGS, **nodes: Any) -> Settings:
    told = {"region": REGION, "vpcID": vpc}
    return Settings.model_validate(
        {"clusterName": cluster, "cloud": {"aws": told}, "nodes": {"bootImageTags": tags, **nodes}}
    )


async def _examine(settings: Settings, *, thorough: bool = False, ahead_s: float = 0) -> dict[str, Finding]:
    clock = ShiftedClock(timedelta(seconds=ahead_s))
    found = await examine(settings, clock, None, thorough=thorough)
    assert len({finding.name for finding in found}) == len(found)
    for finding in found:
        assert finding.detail
        assert bool(finding.remedy) is not finding.ok, finding
    return {finding.name: finding for finding in found}


def _state(finding: Finding) -> str:
    return "ok" if finding.ok else "FAIL" if finding.essential else "warn"


async def test_a_good_account(account: Account, cluster: str) -> None:
    found = await _examine(_settings(cluster, account.vpc), thorough=True)
    states = {name: _state(finding) for name, finding in found.items()}
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


async def test_nothing_is_changed(account: Account, cluster: str, proxy: AwsProxy, moto: MotoServer) -> None:
    before = _inventory(moto)
    await _examine(_settings(cluster, account.vpc), thorough=True)
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
    found = await _examine(_settings(cluster, account.vpc))
    assert "permissions" not in found
    assert sum(proxy.counts().values()) < 12


@pytest.mark.parametrize(
    ("code", "remedy"), [("InvalidClientTokenId", "accessKeyID"), ("ServiceUnavailable", "AWS_ENDPOINT_URL")]
)
async def test_without_an_identity_nothing_else_is_asked(
    account: Account, cluster: str, proxy: AwsProxy, code: str, remedy: str
) -> None:
    proxy.fail("GetCallerIdentity", code, times=None)
    found = await _examine(_settings(cluster, account.vpc), thorough=True)
    assert list(found) == ["credentials"]
    assert _state(found["credentials"]) == "FAIL"
    assert code in found["credentials"].detail
    assert remedy in found["credentials"].remedy
    assert set(proxy.counts()) == {"GetCallerIdentity"}


async def test_a_start_is_not_hindered_by_what_running_pods_do_without(
    account: Account, cluster: str, proxy: AwsProxy
) -> None:
    settings = _settings(cluster, account.vpc, {"purpose": "other"})
    assert _state((await _examine(settings))["boot image amd64"]) == "warn"
    proxy.fail("DescribeSubnets", "UnauthorizedOperation")
    assert _state((await _examine(settings))["subnets"]) == "warn"
    proxy.fail("GetCallerIdentity", "ServiceUnavailable")
    assert _state((await _examine(settings))["credentials"]) == "warn"
    proxy.fail("GetCallerIdentity", "AuthFailure")
    assert _state((await _examine(settings))["credentials"]) == "FAIL"


async def test_an_endpoint_that_does_not_answer(
    account: Account, cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", NOWHERE)
    found = await _examine(_settings(cluster, account.vpc))
    assert list(found) == ["credentials"]
    assert NOWHERE in found["credentials"].detail


async def test_no_credentials_at_all(
    account: Account, cluster: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in KEYS:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    found = await _examine(_settings(cluster, account.vpc))
    assert "Unable to locate credentials" in found["credentials"].detail
    assert "AWS_ACCESS_KEY_ID" in found["credentials"].remedy


@pytest.mark.parametrize(("ahead_s", "state"), [(0, "ok"), (90, "warn"), (-90, "warn"), (600, "FAIL")])
async def test_clock(
    account: Account, cluster: str, moto: MotoServer, monkeypatch: pytest.MonkeyPatch, ahead_s: int, state: str
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto.url)  # the proxy leaves the time out
    found = await _examine(_settings(cluster, account.vpc), ahead_s=ahead_s)
    assert _state(found["clock"]) == state
    said = {-90: "behind AWS", 0: "agrees with AWS"}.get(ahead_s, "ahead of AWS")
    assert said in found["clock"].detail


async def test_a_vpc_that_does_not_exist(account: Account, cluster: str) -> None:
    found = await _examine(_settings(cluster, "vpc-0123"))
    assert _state(found["VPC"]) == "FAIL"
    assert "vpc-0123 does not exist" in found["VPC"].detail
    assert "public subnets" not in found


async def test_a_vpc_without_subnets(moto: MotoServer, cluster: str, account: Account) -> None:
    vpc = client("ec2", moto.url).create_vpc(CidrBlock="10.99.0.0/24")["Vpc"]["VpcId"]
    found = await _examine(_settings(cluster, vpc), thorough=True)
    assert _state(found["subnets"]) == "FAIL"


async def test_a_vpc_with_little_room_and_no_way_out(moto: MotoServer, cluster: str, account: Account) -> None:
    ec2 = client("ec2", moto.url)
    vpc = ec2.create_vpc(CidrBlock="10.98.0.0/24")["Vpc"]["VpcId"]
    ec2.create_subnet(VpcId=vpc, AvailabilityZone="us-east-1b", CidrBlock="10.98.0.0/28")
    found = await _examine(_settings(cluster, vpc))
    assert "privateIPOnly" in found["public subnets"].detail
    assert found["private subnets"].detail == "1 in us-east-1b; 11 free addresses"
    assert (_state(found["public subnets"]), _state(found["private subnets"])) == ("warn", "warn")


@pytest.mark.parametrize(
    ("tags", "reason"), [({"purpose": "other"}, "purpose=other"), ({}, "nodes.bootImageTags is empty")]
)
async def test_no_boot_image(account: Account, cluster: str, tags: dict[str, str], reason: str) -> None:
    found = (await _examine(_settings(cluster, account.vpc, tags), thorough=True))["boot image amd64"]
    assert _state(found) == "FAIL"
    assert reason in found.detail


async def test_the_default_types_architecture_needs_the_image(account: Account, cluster: str) -> None:
    found = await _examine(_settings(cluster, account.vpc, defaultInstanceType="t4g.nano"), thorough=True)
    assert (_state(found["boot image arm64"]), _state(found["boot image amd64"])) == ("FAIL", "ok")


async def test_a_default_type_that_the_region_does_not_have(account: Account, cluster: str) -> None:
    found = await _examine(_settings(cluster, account.vpc, defaultInstanceType="z9.nano"))
    assert "z9.nano" in found["default type"].detail


async def test_whose_the_name_is(account: Account, cluster: str, aws: AwsSession) -> None:
    settings = _settings(cluster, account.vpc)
    assert "is free" in (await _examine(settings))["cluster name"].detail
    await ClusterLock(aws, cluster, SystemClock(), host="alpha").hold("uuid-1")
    held = (await _examine(settings))["cluster name"]
    assert held.ok
    assert "cluster uuid-1 on host alpha" in held.detail
    later = DEAD_AFTER.total_seconds() + 60
    dead = (await _examine(settings, ahead_s=later))["cluster name"]
    assert _state(dead) == "warn"
    assert "--take-over-name" in dead.remedy


async def test_the_way_to_the_nodes(
    account: Account, cluster: str, aws: AwsSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = _settings(cluster, account.vpc)
    assert settings.cloud.aws is not None
    survey = Survey(aws, settings, settings.cloud.aws, SystemClock(), None, vpc=account.vpc)
    assert [(_state(one), "nor in any other VPC" in one.detail) async for one in check_route(survey)] == [
        ("warn", True)
    ]
    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
    with metadata_server() as server:
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", server.endpoint)
        server.answers["meta-data/mac"] = b"02:00:00:00:00:01"
        for vpc, state in ((account.vpc, "ok"), ("vpc-other", "warn")):
            server.answers["meta-data/network/interfaces/macs/02:00:00:00:00:01/vpc-id"] = vpc.encode()
            assert [(_state(one), vpc in one.detail) async for one in check_route(survey)] == [(state, True)]


# ------------------------------------------------------------ permissions

ACTIONS = frozenset(probe.action for probe in probes(Scene(REGION, "t3.nano")))
UNCHECKED = frozenset(action for action in ACTIONS if action.startswith("route53:"))
"""Moto checks no permissions of Route53."""
ALWAYS = frozenset({"sts:GetCallerIdentity", "servicequotas:GetServiceQuota"})


@contextmanager
def _only(moto: MotoServer, actions: Collection[str]) -> Iterator[dict[str, str]]:
    """The API server checks permissions, and there is a user that may do these ``actions``: its environment."""
    iam = client("iam", moto.url)
    user = f"u{secrets.token_hex(4)}"
    iam.create_user(UserName=user)
    statement = {"Effect": "Allow", "Action": sorted(actions), "Resource": "*"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    iam.put_user_policy(UserName=user, PolicyName="p", PolicyDocument=document)
    key = iam.create_access_key(UserName=user)["AccessKey"]
    _check_from_now_on(moto, "0")
    try:
        yield {"AWS_ACCESS_KEY_ID": key["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"]}
    finally:
        _check_from_now_on(moto, "inf")


def _check_from_now_on(moto: MotoServer, calls_unchecked: str) -> None:
    plain = {"Content-Type": "text/plain"}
    request = urllib.request.Request(f"{moto.url}/moto-api/reset-auth", calls_unchecked.encode(), plain)
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.status == 200


async def _permissions(
    settings: Settings, moto: MotoServer, monkeypatch: pytest.MonkeyPatch, actions: Collection[str]
) -> dict[str, Finding]:
    monkeypatch.delenv("AWS_SESSION_TOKEN")
    # Not by the proxy: the signature covers the host's name.
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto.url)
    with _only(moto, actions) as keys:
        for name, value in keys.items():
            monkeypatch.setenv(name, value)
        return await _examine(settings, thorough=True)


async def test_all_permissions_are_found(
    account: Account, cluster: str, moto: MotoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = await _permissions(_settings(cluster, account.vpc), moto, monkeypatch, ACTIONS | ALWAYS)
    broken = {f"elasticloadbalancing:{name}" for name in BROKEN}
    assert found.keys() & ACTIONS == broken
    assert {_state(found[action]) for action in broken} == {"warn"}
    assert f"{len(ACTIONS - broken)} of {len(ACTIONS)} are there" in found["permissions"].detail


async def test_each_missing_permission_is_named(
    account: Account, cluster: str, moto: MotoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All at once: what doctor needs itself stays allowed."""
    own = {"ec2:DescribeImages", "ec2:DescribeRouteTables", "ec2:DescribeSubnets", "ec2:DescribeVpcs"}
    own |= {"dynamodb:GetItem"} | UNCHECKED
    found = await _permissions(_settings(cluster, account.vpc), moto, monkeypatch, own | ALWAYS)
    assert found.keys() & ACTIONS == ACTIONS - own
    for action in ACTIONS - own:
        spared = action in REFRESH or action.startswith("elasticloadbalancing:")
        assert _state(found[action]) == ("warn" if spared else "FAIL")
        assert "docs/iam-policy.json" in found[action].remedy


@pytest.mark.parametrize(("discovery", "state"), [({"privateDNS": {}}, "FAIL"), ({}, "warn")])
async def test_a_missing_permission_of_dns_counts_where_dns_is_used(
    account: Account, cluster: str, proxy: AwsProxy, discovery: dict[str, Any], state: str
) -> None:
    proxy.fail("ChangeResourceRecordSets", "AccessDenied")
    settings = _settings(cluster, account.vpc)
    told = ServiceDiscovery.model_validate(discovery)
    found = await _examine(settings.model_copy(update={"service_discovery": told}), thorough=True)
    assert {action: _state(found[action]) for action in found.keys() & ACTIONS} == {
        "route53:ChangeResourceRecordSets": state
    }


def test_every_permission_of_the_policy_is_tried_or_said_to_be_untested() -> None:
    document = json.loads((Path(__file__).parents[2] / "docs/iam-policy.json").read_text())
    listed = {action for statement in document["Statement"] for action in statement["Action"]}
    assert listed == ACTIONS | UNTESTED | {"servicequotas:GetServiceQuota"}


async def test_a_check_that_is_denied_fails_alone(
    account: Account, cluster: str, moto: MotoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = {"ec2:DescribeSubnets", "servicequotas:GetServiceQuota"}
    found = await _permissions(_settings(cluster, account.vpc), moto, monkeypatch, (ACTIONS | ALWAYS) - missing)
    assert (_state(found["subnets"]), _state(found["boot image amd64"])) == ("FAIL", "ok")
    assert found["quota: spot vCPUs"].detail == "not known: denied"


def test_no_probe_could_take_effect() -> None:
    for probe in probes(Scene(REGION, "t3.nano", "ami-1", "subnet-1", "vpc-1")):
        if probe.service == "ec2" and not probe.operation.startswith(READS):
            assert probe.parameters["DryRun"] is True
    assert ACTIONS.isdisjoint(UNTESTED)


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
    assert "1 of" in done.stderr
    assert "ec2:ModifyVolume" in done.stderr


def test_the_other_cloud(tmp_path: Path) -> None:
    config = tmp_path / "server.yml"
    config.write_text("clusterName: c\n")
    done = _milpa(tmp_path, config, "--cloud", "aws")
    assert done.returncode == 1
    assert f"{config} chooses local, not aws" in done.stdout
    done = _milpa(tmp_path, config, "--cloud", "gcp")
    assert done.returncode == 2
    assert "there are 'aws' and 'local'" in done.stderr
