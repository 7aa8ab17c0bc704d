"""Classic load balancers as the API writes them, and what is to be changed on one. Pure functions; nothing is sent."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cloud.aws.network import Subnet, suitable
from milpa_ray.errors import Invalid
from milpa_ray.planner.garbage import CLUSTER_TAG, UUID_TAG
from milpa_ray.ports import BalancerOptions, HealthCheck, Listener, LoadBalancer

MAX_NAME = 32
MAX_TAGS = 10
"""Tags of a classic load balancer; other resources may have more."""
MAX_GROUPS = 5
SERVICE_TAG = "milpa-service"
_HASH_CHARS = 8


def balancer_name(cluster: str, service: str) -> str:
    """The load balancer's name; one that would be too long ends with a hash instead."""
    name = f"milpa-{cluster}-{service}".lower()
    if len(name) <= MAX_NAME:
        return name
    digest = hashlib.blake2b(name.encode(), digest_size=_HASH_CHARS // 2).hexdigest()
    return f"{name[: MAX_NAME - _HASH_CHARS - 1].rstrip('-')}-{digest}"


def check_balancer(wanted: LoadBalancer) -> None:
    """Checks what AWS would refuse half way.

    Raises:
        Invalid
    """
    what = f"load balancer of Service {wanted.name}"
    if not wanted.listeners:
        raise Invalid(f"{what}: it needs at least one port; add one with a nodePort to spec.ports")
    ports = [listener.port for listener in wanted.listeners]
    if len(set(ports)) < len(ports):
        raise Invalid(f"{what}: a port is listed twice; use each port in spec.ports once")
    if len(set(wanted.security_groups)) > MAX_GROUPS:
        raise Invalid(f"{what}: {len(set(wanted.security_groups))} security groups are more than AWS' {MAX_GROUPS}")
    count = len(all_tags(wanted, "", ""))
    if count > MAX_TAGS:
        raise Invalid(
            f"{what}: {count} tags are more than the {MAX_TAGS} that a classic load balancer may have; use fewer labels"
        )


def all_tags(wanted: LoadBalancer, cluster: str, cluster_uuid: str) -> dict[str, str]:
    """Its own tags, and those by which we know it again."""
    return {**wanted.tags, CLUSTER_TAG: cluster, UUID_TAG: cluster_uuid, SERVICE_TAG: wanted.name}


def scheme(wanted: LoadBalancer) -> str:
    return "internal" if wanted.internal else "internet-facing"


# ---------------------------------------------------------------- listeners


@dataclass(frozen=True, slots=True)
class ListenerChanges:
    """Ports to close, certificates to exchange (certificate by port), and listeners to open after that."""

    close: tuple[int, ...]
    recertify: Mapping[int, str]
    open: tuple[Listener, ...]


def listener_changes(wanted: Iterable[Listener], actual: Iterable[Listener]) -> ListenerChanges:
    """From the ``actual`` listeners to the ``wanted`` ones. A new certificate alone interrupts nothing."""
    goal = {listener.port: listener for listener in wanted}
    there = {listener.port: listener for listener in actual}
    recertify = {
        port: goal[port].certificate
        for port in goal.keys() & there.keys()
        if goal[port] != there[port] and _same_but_certificate(goal[port], there[port])
    }
    stays = {port for port in goal.keys() & there.keys() if goal[port] == there[port] or port in recertify}
    return ListenerChanges(
        tuple(sorted(there.keys() - stays)), recertify, tuple(goal[port] for port in sorted(goal.keys() - stays))
    )


def _same_but_certificate(one: Listener, other: Listener) -> bool:
    def rest(listener: Listener) -> tuple[str, int, str]:
        return listener.protocol, listener.target_port, listener.target_protocol

    return bool(one.certificate and other.certificate) and rest(one) == rest(other)


def to_listener(listener: Listener) -> dict[str, Any]:
    told: dict[str, Any] = {
        "LoadBalancerPort": listener.port,
        "Protocol": listener.protocol.upper(),
        "InstancePort": listener.target_port,
        "InstanceProtocol": listener.target_protocol.upper(),
    }
    if listener.certificate:
        told["SSLCertificateId"] = listener.certificate
    return told


def from_listener(told: Mapping[str, Any]) -> Listener:
    return Listener(
        int(told["LoadBalancerPort"]),
        str(told["Protocol"]).lower(),
        int(told["InstancePort"]),
        str(told.get("InstanceProtocol") or told["Protocol"]).lower(),
        str(told.get("SSLCertificateId") or ""),
    )


# ---------------------------------------------------------------- the rest


def to_health_check(check: HealthCheck) -> dict[str, Any]:
    return {
        "Target": check.target,
        "Interval": check.interval_s,
        "Timeout": check.timeout_s,
        "UnhealthyThreshold": check.unhealthy_threshold,
        "HealthyThreshold": check.healthy_threshold,
    }


def to_attributes(options: BalancerOptions) -> dict[str, dict[str, Any]]:
    log: dict[str, Any] = {"Enabled": bool(options.access_log_bucket)}
    if options.access_log_bucket:
        log["S3BucketName"] = options.access_log_bucket
        log["S3BucketPrefix"] = options.access_log_prefix
        log["EmitInterval"] = options.access_log_interval_min
    draining: dict[str, Any] = {"Enabled": options.draining_s > 0}
    if options.draining_s > 0:
        draining["Timeout"] = options.draining_s
    return {
        "CrossZoneLoadBalancing": {"Enabled": options.cross_zone},
        "AccessLog": log,
        "ConnectionDraining": draining,
        "ConnectionSettings": {"IdleTimeout": options.idle_timeout_s},
    }


def attribute_changes(options: BalancerOptions, actual: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Those groups of attributes in which something that we set differs."""

    def differs(name: str, wanted: Mapping[str, Any]) -> bool:
        there = actual.get(name, {})
        return any((there.get(key) or type(value)()) != value for key, value in wanted.items())

    return {name: wanted for name, wanted in to_attributes(options).items() if differs(name, wanted)}


def choose_subnets(subnets: Iterable[Subnet], *, internal: bool) -> dict[str, str]:
    """The subnet of each zone, of which a load balancer may have one: the one with most free addresses."""
    chosen: dict[str, Subnet] = {}
    for subnet in suitable(subnets, private=internal):
        best = chosen.get(subnet.zone)
        if best is None or (subnet.free, subnet.id) > (best.free, best.id):
            chosen[subnet.zone] = subnet
    return {zone: subnet.id for zone, subnet in sorted(chosen.items())}
