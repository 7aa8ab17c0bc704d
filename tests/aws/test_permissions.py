"""``milpa doctor`` tells which permissions are missing, on an API server that checks them."""

import json
import secrets
import urllib.request
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cloud.aws.doctor import REFRESH
from cloud.aws.findings import Finding
from cloud.aws.permissions import UNTESTED, Scene, probes
from milpa_ray.settings import ServiceDiscovery, Settings
from tests.aws.account import REGION, Account, client
from tests.aws.examining import BROKEN, READS, examined, settings_for, state_of, use_bench
from tests.aws.moto_server import MotoServer
from tests.aws.proxy import AwsProxy

ACTIONS = frozenset(probe.action for probe in probes(Scene(REGION, "t3.nano")))
UNCHECKED = frozenset(action for action in ACTIONS if action.startswith("route53:"))
"""Moto checks no permissions of Route53."""
ALWAYS = frozenset({"sts:GetCallerIdentity", "servicequotas:GetServiceQuota"})


@pytest.fixture(autouse=True)
def environment(proxy: AwsProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    use_bench(proxy, monkeypatch)


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
        return await examined(settings, thorough=True)


async def test_all_permissions_are_found(
    account: Account, cluster: str, moto: MotoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = await _permissions(settings_for(cluster, account.vpc), moto, monkeypatch, ACTIONS | ALWAYS)
    broken = {f"elasticloadbalancing:{name}" for name in BROKEN}
    assert found.keys() & ACTIONS == broken
    assert {state_of(found[action]) for action in broken} == {"warn"}
    assert f"{len(ACTIONS - broken)} of {len(ACTIONS)} are there" in found["permissions"].detail


async def test_each_missing_permission_is_named(
    account: Account, cluster: str, moto: MotoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All at once: what doctor needs itself stays allowed."""
    own = {"ec2:DescribeImages", "ec2:DescribeRouteTables", "ec2:DescribeSubnets", "ec2:DescribeVpcs"}
    own |= {"dynamodb:GetItem"} | UNCHECKED
    found = await _permissions(settings_for(cluster, account.vpc), moto, monkeypatch, own | ALWAYS)
    assert found.keys() & ACTIONS == ACTIONS - own
    for action in ACTIONS - own:
        spared = action in REFRESH or action.startswith("elasticloadbalancing:")
        assert state_of(found[action]) == ("warn" if spared else "FAIL")
        assert "docs/iam-policy.json" in found[action].remedy


@pytest.mark.parametrize(("discovery", "state"), [({"privateDNS": {}}, "FAIL"), ({}, "warn")])
async def test_a_missing_permission_of_dns_counts_where_dns_is_used(
    account: Account, cluster: str, proxy: AwsProxy, discovery: dict[str, Any], state: str
) -> None:
    proxy.fail("ChangeResourceRecordSets", "AccessDenied")
    settings = settings_for(cluster, account.vpc)
    told = ServiceDiscovery.model_validate(discovery)
    found = await examined(settings.model_copy(update={"service_discovery": told}), thorough=True)
    assert {action: state_of(found[action]) for action in found.keys() & ACTIONS} == {
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
    found = await _permissions(settings_for(cluster, account.vpc), moto, monkeypatch, (ACTIONS | ALWAYS) - missing)
    assert (state_of(found["subnets"]), state_of(found["boot image amd64"])) == ("FAIL", "ok")
    assert found["quota: spot vCPUs"].detail == "not known: denied"


def test_no_probe_could_take_effect() -> None:
    for probe in probes(Scene(REGION, "t3.nano", "ami-1", "subnet-1", "vpc-1")):
        if probe.service == "ec2" and not probe.operation.startswith(READS):
            assert probe.parameters["DryRun"] is True
    assert ACTIONS.isdisjoint(UNTESTED)
