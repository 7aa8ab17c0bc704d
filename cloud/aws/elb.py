"""The load balancer port on classic Elastic Load Balancing.

A load balancer is ours if it is tagged with our cluster's uuid; one of our name that is not is never touched. What it
should be is not decided here: it is compared with what there is, and only differences are sent.
"""

import re
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

from cloud.aws.balancer_changes import (
    SERVICE_TAG,
    all_tags,
    attribute_changes,
    balancer_name,
    check_balancer,
    choose_subnets,
    from_listener,
    listener_changes,
    scheme,
    to_health_check,
    to_listener,
)
from cloud.aws.network import Network
from cloud.aws.session import AwsSession
from cloud.aws.tags import from_tags, to_tags
from milpa_ray.errors import CloudNotReady, CloudRefused, CloudUnavailable, Invalid
from milpa_ray.planner.garbage import UUID_TAG
from milpa_ray.ports import LoadBalancer

PAGE_SIZE = 400
TAGS_AT_ONCE = 20
"""Load balancers whose tags one call tells; AWS' most."""
_NOT_FOUND = frozenset({"LoadBalancerNotFound", "AccessPointNotFound"})
_INSTANCE_ID = re.compile(r"\bi-[0-9a-f]+\b")


class ClassicBalancers:
    """Implements ``milpa_ray.ports.LoadBalancers`` for one cluster in one VPC."""

    def __init__(self, aws: AwsSession, cluster: str, cluster_uuid: str, network: Network) -> None:
        self._aws = aws
        self._cluster = cluster
        self._uuid = cluster_uuid
        self._network = network

    async def balancers(self) -> Mapping[str, str]:
        """As ``LoadBalancers.balancers``."""
        names = {
            told["LoadBalancerName"]: told["DNSName"]
            async for told in self._describe({"PageSize": PAGE_SIZE})
            if told["LoadBalancerName"].startswith("milpa-")
        }
        found: dict[str, str] = {}
        for name, tags in (await self._tags(list(names))).items():
            if tags.get(UUID_TAG) == self._uuid:
                found[tags.get(SERVICE_TAG, name)] = names[name]
        return found

    async def set_balancer(self, wanted: LoadBalancer) -> str:
        """As ``LoadBalancers.set_balancer``."""
        check_balancer(wanted)
        name = balancer_name(self._cluster, wanted.name)
        found = await self._find(name)
        if found is not None and found["Scheme"] != scheme(wanted):
            await self._aws.call("elb", "DeleteLoadBalancer", LoadBalancerName=name)
            found = None
        if found is None:
            found = await self._make(name, wanted)
        else:
            await self._change_tags(name, all_tags(wanted, self._cluster, self._uuid))
            await self._change_subnets(found, wanted)
        await self._change_listeners(found, wanted)
        await self._change_rest(found, wanted)
        await self._change_instances(found, wanted)
        return str(found["DNSName"])

    async def remove_balancer(self, name: str) -> None:
        """As ``LoadBalancers.remove_balancer``."""
        full = balancer_name(self._cluster, name)
        if await self._find(full) is not None:
            await self._aws.call("elb", "DeleteLoadBalancer", LoadBalancerName=full)

    # ------------------------------------------------------------ finding

    async def _find(self, name: str) -> dict[str, Any] | None:
        """Our load balancer of that name in AWS.

        Raises:
            Invalid: there is one, and it is not ours.
        """
        try:
            (found,) = [told async for told in self._describe({"LoadBalancerNames": [name]})]
            tags = (await self._tags([name]))[name]
        except CloudRefused as error:
            if error.code in _NOT_FOUND:
                return None
            raise
        if tags.get(UUID_TAG) != self._uuid:
            raise Invalid(
                f"load balancer {name} is not of this cluster (tag {UUID_TAG}); delete it if nothing needs it, or "
                "choose another name for the Service or the cluster"
            )
        return found

    async def _describe(self, parameters: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        while True:
            page = await self._aws.call("elb", "DescribeLoadBalancers", **parameters)
            for told in page["LoadBalancerDescriptions"]:
                yield told
            if not page.get("NextMarker"):
                return
            parameters = {**parameters, "Marker": page["NextMarker"]}

    async def _tags(self, names: list[str]) -> dict[str, dict[str, str]]:
        found: dict[str, dict[str, str]] = {}
        for start in range(0, len(names), TAGS_AT_ONCE):
            chunk = names[start : start + TAGS_AT_ONCE]
            page = await self._aws.call("elb", "DescribeTags", LoadBalancerNames=chunk)
            found |= {told["LoadBalancerName"]: from_tags(told["Tags"]) for told in page["TagDescriptions"]}
        return found

    # ------------------------------------------------------------ changing

    async def _make(self, name: str, wanted: LoadBalancer) -> dict[str, Any]:
        """Makes it, without instances; as ``_find`` tells it then."""
        subnets = choose_subnets(await self._network.subnets(), internal=wanted.internal)
        if not subnets:
            raise CloudNotReady(
                f"load balancer of Service {wanted.name}: the VPC has no {'' if wanted.internal else 'public '}subnet"
            )
        await self._aws.call(
            "elb",
            "CreateLoadBalancer",
            LoadBalancerName=name,
            Listeners=[to_listener(listener) for listener in wanted.listeners],
            Subnets=list(subnets.values()),
            SecurityGroups=sorted(set(wanted.security_groups)),
            Tags=to_tags(all_tags(wanted, self._cluster, self._uuid)),
            # Internet-facing is not a value that may be sent, but what comes without one.
            **({"Scheme": "internal"} if wanted.internal else {}),
        )
        found = await self._find(name)
        if found is None:
            raise CloudUnavailable(f"load balancer {name} was made, but AWS does not show it yet")
        return found

    async def _change_tags(self, name: str, wanted: Mapping[str, str]) -> None:
        there = (await self._tags([name]))[name]
        surplus = sorted(key for key in there.keys() - wanted.keys() if not key.startswith("aws:"))
        missing = {key: value for key, value in wanted.items() if there.get(key) != value}
        if surplus:  # first, for the number of tags is limited
            await self._aws.call("elb", "RemoveTags", LoadBalancerNames=[name], Tags=[{"Key": key} for key in surplus])
        if missing:
            await self._aws.call("elb", "AddTags", LoadBalancerNames=[name], Tags=to_tags(missing))

    async def _change_subnets(self, found: Mapping[str, Any], wanted: LoadBalancer) -> None:
        """Adds the zones that it is not in yet; leaves none."""
        subnets = await self._network.subnets()
        has = {subnet.zone for subnet in subnets if subnet.id in found["Subnets"]}
        chosen = choose_subnets(subnets, internal=wanted.internal)
        if more := [id_ for zone, id_ in chosen.items() if zone not in has]:
            await self._aws.call(
                "elb", "AttachLoadBalancerToSubnets", LoadBalancerName=found["LoadBalancerName"], Subnets=more
            )

    async def _change_listeners(self, found: Mapping[str, Any], wanted: LoadBalancer) -> None:
        name = found["LoadBalancerName"]
        actual = [from_listener(told["Listener"]) for told in found["ListenerDescriptions"]]
        changes = listener_changes(wanted.listeners, actual)
        for port, certificate in changes.recertify.items():
            await self._aws.call(
                "elb",
                "SetLoadBalancerListenerSSLCertificate",
                LoadBalancerName=name,
                LoadBalancerPort=port,
                SSLCertificateId=certificate,
            )
        if changes.close:
            await self._aws.call(
                "elb", "DeleteLoadBalancerListeners", LoadBalancerName=name, LoadBalancerPorts=list(changes.close)
            )
        if changes.open:
            told = [to_listener(listener) for listener in changes.open]
            await self._aws.call("elb", "CreateLoadBalancerListeners", LoadBalancerName=name, Listeners=told)

    async def _change_rest(self, found: Mapping[str, Any], wanted: LoadBalancer) -> None:
        name = found["LoadBalancerName"]
        if set(found.get("SecurityGroups", ())) != set(wanted.security_groups) and wanted.security_groups:
            await self._aws.call(
                "elb",
                "ApplySecurityGroupsToLoadBalancer",
                LoadBalancerName=name,
                SecurityGroups=sorted(set(wanted.security_groups)),
            )
        check = to_health_check(wanted.health_check)
        if found.get("HealthCheck") != check:
            await self._aws.call("elb", "ConfigureHealthCheck", LoadBalancerName=name, HealthCheck=check)
        answer = await self._aws.call("elb", "DescribeLoadBalancerAttributes", LoadBalancerName=name)
        if changed := attribute_changes(wanted.options, answer["LoadBalancerAttributes"]):
            await self._aws.call(
                "elb", "ModifyLoadBalancerAttributes", LoadBalancerName=name, LoadBalancerAttributes=changed
            )

    async def _change_instances(self, found: Mapping[str, Any], wanted: LoadBalancer) -> None:
        there = {told["InstanceId"] for told in found["Instances"]}
        await self._of_known(found, "RegisterInstancesWithLoadBalancer", wanted.instances - there)
        await self._of_known(found, "DeregisterInstancesFromLoadBalancer", there - wanted.instances)

    async def _of_known(self, found: Mapping[str, Any], operation: str, instance_ids: Iterable[str]) -> None:
        """Makes the call for those instances that AWS knows; it refuses the whole call for one that it does not."""
        left = sorted(instance_ids)
        while left:
            told = [{"InstanceId": id_} for id_ in left]
            try:
                await self._aws.call("elb", operation, LoadBalancerName=found["LoadBalancerName"], Instances=told)
                return
            except CloudRefused as error:
                unknown = set(_INSTANCE_ID.findall(str(error))) & set(left)
                if error.code != "InvalidInstance" or not unknown:
                    raise
                left = [id_ for id_ in left if id_ not in unknown]
