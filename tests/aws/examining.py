"""What the tests of ``milpa doctor`` share: the environment of the bench, settings for it, and what is found."""

import os
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cloud.aws.doctor import examine
from cloud.aws.findings import Finding
from cloud.aws.permissions import NO_BALANCER
from milpa_ray.clock import SystemClock
from milpa_ray.settings import Settings
from tests.aws.account import IMAGE_TAGS, KEYS, REGION
from tests.aws.proxy import AwsProxy

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


def use_bench(proxy: AwsProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours: the credentials and endpoint of the bench, and no metadata service."""
    proxy.throttle = None
    for action in BROKEN | FORGIVING:
        proxy.fail(action, "LoadBalancerNotFound", times=None, fits=lambda call: NO_BALANCER.encode() in call.body)
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in {**KEYS, "AWS_ENDPOINT_URL": proxy.url, "AWS_EC2_METADATA_DISABLED": "true"}.items():
        monkeypatch.setenv(name, value)


def settings_for(cluster: str, vpc: str, tags: dict[str, str] = IMAGE_TAGS, **nodes: Any) -> Settings:
    told = {"region": REGION, "vpcID": vpc}
    return Settings.model_validate(
        {"clusterName": cluster, "cloud": {"aws": told}, "nodes": {"bootImageTags": tags, **nodes}}
    )


async def examined(settings: Settings, *, thorough: bool = False, ahead_s: float = 0) -> dict[str, Finding]:
    clock = ShiftedClock(timedelta(seconds=ahead_s))
    found = await examine(settings, clock, None, thorough=thorough)
    assert len({finding.name for finding in found}) == len(found)
    for finding in found:
        assert finding.detail
        assert bool(finding.remedy) is not finding.ok, finding
    return {finding.name: finding for finding in found}


def state_of(finding: Finding) -> str:
    return "ok" if finding.ok else "FAIL" if finding.essential else "warn"
