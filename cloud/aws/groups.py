"""The firewall port on EC2: security groups, their rules, and the instances in them.

Only groups tagged with our cluster's uuid are seen. A group of our name that is not ours is never touched: that is told
as an error. Decides nothing about which rules there should be.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from cloud.aws.session import AwsSession
from milpa_ray.errors import CloudRefused, CloudUnavailable, Invalid
from milpa_ray.planner.firewall import ALL, NODE_GROUP, rule_steps
from milpa_ray.planner.garbage import CLUSTER_TAG, UUID_TAG
from milpa_ray.ports import Rule

MAX_RULES = 60
"""Rules of one security group (EC2's default quota)."""
MAX_GROUPS = 5
"""Security groups of one instance (EC2's default quota)."""
TRUSTED_S = 60.0
"""How long the node group's id is used without a look whether the group is still there."""
_GONE = frozenset({"InvalidInstanceID.NotFound", "IncorrectInstanceState", "IncorrectState"})


def group_name(cluster: str, name: str) -> str:
    """What the group ``name`` is called in EC2."""
    return f"milpa-{cluster}-{name}".lower()


class SecurityGroups:
    """Implements ``milpa_ray.ports.Firewall`` for one cluster in one VPC."""

    def __init__(self, aws: AwsSession, cluster: str, cluster_uuid: str, vpc_id: Callable[[], Awaitable[str]]) -> None:
        """``vpc_id`` answers with the VPC's id; it may ask the cloud, and is asked often."""
        self._aws = aws
        self._cluster = cluster
        self._uuid = cluster_uuid
        self._vpc_id = vpc_id
        self._node_group = ""
        self._node_rules: frozenset[Rule] | None = None
        self._trusted_until = 0.0
        self._one_by_one = asyncio.Lock()

    async def own_ranges(self) -> Sequence[str]:
        """As ``Firewall.own_ranges``: the VPC's CIDR blocks of both kinds."""
        (vpc,) = (await self._aws.call("ec2", "DescribeVpcs", VpcIds=[await self._vpc_id()]))["Vpcs"]
        found = [
            block["CidrBlock"]
            for block in vpc.get("CidrBlockAssociationSet", ())
            if block.get("CidrBlockState", {}).get("State", "associated") == "associated"
        ]
        found += [
            block["Ipv6CidrBlock"]
            for block in vpc.get("Ipv6CidrBlockAssociationSet", ())
            if block.get("Ipv6CidrBlockState", {}).get("State") == "associated"
        ]
        return sorted(set(found) or {vpc["CidrBlock"]})

    async def node_groups(self) -> tuple[str, ...]:
        """As ``Firewall.node_groups``. The group lets nothing in until ``set_group`` gives it rules for the first time;
        should somebody remove it after that, it is made again with the same rules."""
        async with self._one_by_one:
            if asyncio.get_running_loop().time() >= self._trusted_until:
                await self._bring(NODE_GROUP, self._node_rules)
            return (self._node_group,)

    async def set_group(self, name: str, rules: Collection[Rule]) -> str:
        """As ``Firewall.set_group``."""
        if len(set(rules)) > MAX_RULES:
            raise Invalid(
                f"security group {group_name(self._cluster, name)}: {len(set(rules))} rules (one per port and source "
                f"range) are more than EC2's {MAX_RULES}; open fewer ports or give fewer ranges"
            )
        async with self._one_by_one:
            if name == NODE_GROUP:
                self._node_rules = frozenset(rules)
            return await self._bring(name, rules)

    async def _bring(self, name: str, rules: Collection[Rule] | None) -> str:
        """Makes the group be there, with these rules unless they are None."""
        group = await self._ensure(name)
        group_id = str(group["GroupId"])
        actual = frozenset(_rules(group["IpPermissions"]))
        for step in rule_steps(actual if rules is None else rules, actual, MAX_RULES):
            await self._change(group_id, step.adds, step.rules)
        if name == NODE_GROUP:
            self._node_group = group_id
            self._trusted_until = asyncio.get_running_loop().time() + TRUSTED_S
        return group_id

    async def _change(self, group_id: str, adds: bool, rules: Iterable[Rule]) -> None:
        permissions = [_permission(rule) for rule in rules]
        try:
            if adds:
                await self._aws.call(
                    "ec2", "AuthorizeSecurityGroupIngress", GroupId=group_id, IpPermissions=permissions
                )
            else:
                await self._aws.call("ec2", "RevokeSecurityGroupIngress", GroupId=group_id, IpPermissions=permissions)
        except CloudRefused as error:
            # A group that was just made may not be known everywhere yet, and what was lost may have come after all.
            if error.code in ("InvalidGroup.NotFound", "InvalidPermission.Duplicate", "InvalidPermission.NotFound"):
                raise CloudUnavailable(f"{error}; the rules are to be compared again") from error
            raise

    async def _ensure(self, name: str) -> dict[str, Any]:
        """The group, made if it is not there."""
        found = await self._find(name)
        if found is not None:
            return found
        try:
            made = await self._aws.call(
                "ec2",
                "CreateSecurityGroup",
                GroupName=group_name(self._cluster, name),
                Description=f"Milpa cluster {self._cluster}: {name}",
                VpcId=await self._vpc_id(),
                TagSpecifications=[{"ResourceType": "security-group", "Tags": self._tags(name)}],
            )
        except CloudRefused as error:
            if error.code != "InvalidGroup.Duplicate":
                raise
            found = await self._find(name)  # an answer of ours was lost, or it is another's
            if found is None:
                raise CloudUnavailable(f"{error}, but it is not shown yet") from error
            return found
        return {"GroupId": made["GroupId"], "IpPermissions": []}

    def _tags(self, name: str) -> list[dict[str, str]]:
        told = {"Name": group_name(self._cluster, name), CLUSTER_TAG: self._cluster, UUID_TAG: self._uuid}
        return [{"Key": key, "Value": value} for key, value in told.items()]

    async def _find(self, name: str) -> dict[str, Any] | None:
        """Our group of that name.

        Raises:
            Invalid: there is one, and it is not ours.
        """
        full = group_name(self._cluster, name)
        filters = [{"Name": "vpc-id", "Values": [await self._vpc_id()]}, {"Name": "group-name", "Values": [full]}]
        for group in (await self._aws.call("ec2", "DescribeSecurityGroups", Filters=filters))["SecurityGroups"]:
            if _tags_of(group).get(UUID_TAG) != self._uuid:
                raise Invalid(
                    f"security group {full} ({group['GroupId']}) is not of this cluster (tag {UUID_TAG}); delete it "
                    "if nothing needs it, or choose another name for the Service or the cluster"
                )
            return dict(group)
        return None

    async def groups(self) -> Mapping[str, str]:
        """As ``Firewall.groups``."""
        start = group_name(self._cluster, "")
        filters = [
            {"Name": "vpc-id", "Values": [await self._vpc_id()]},
            {"Name": f"tag:{UUID_TAG}", "Values": [self._uuid]},
        ]
        found: dict[str, str] = {}
        async for page in self._aws.pages("ec2", "DescribeSecurityGroups", Filters=filters, MaxResults=1000):
            for group in page["SecurityGroups"]:
                if group["GroupName"].startswith(start):
                    found[group["GroupName"].removeprefix(start)] = group["GroupId"]
        return found

    async def remove_group(self, name: str) -> bool:
        """As ``Firewall.remove_group``."""
        found = await self._find(name)
        if found is None:
            return True
        try:
            await self._aws.call("ec2", "DeleteSecurityGroup", GroupId=found["GroupId"])
        except CloudRefused as error:
            if error.code == "DependencyViolation":
                return False
            if error.code != "InvalidGroup.NotFound":
                raise
        return True

    async def assign(self, instance_id: str, group_ids: Collection[str]) -> None:
        """As ``Firewall.assign``."""
        wanted = sorted(set(group_ids))
        if len(wanted) > MAX_GROUPS:
            raise Invalid(
                f"instance {instance_id}: {len(wanted)} security groups are more than EC2's {MAX_GROUPS} per instance; "
                "let fewer Services select the pod"
            )
        try:
            await self._aws.call("ec2", "ModifyInstanceAttribute", InstanceId=instance_id, Groups=wanted)
        except CloudRefused as error:
            if error.code not in _GONE:
                raise


def _tags_of(group: Mapping[str, Any]) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in group.get("Tags", ())}


def _rules(permissions: Iterable[Mapping[str, Any]]) -> Iterator[Rule]:
    """Each rule by itself; EC2 tells those of one port range together."""
    for permission in permissions:
        protocol = permission["IpProtocol"]
        protocol = "all" if protocol == "-1" else protocol
        low, high = permission.get("FromPort", ALL), permission.get("ToPort", ALL)
        sources = [
            *(source["CidrIp"] for source in permission.get("IpRanges", ())),
            *(source["CidrIpv6"] for source in permission.get("Ipv6Ranges", ())),
            *(source["PrefixListId"] for source in permission.get("PrefixListIds", ())),
            *(source["GroupId"] for source in permission.get("UserIdGroupPairs", ())),
        ]
        for source in sources:
            yield Rule(protocol, low, high, source)


def _permission(rule: Rule) -> dict[str, Any]:
    if rule.source.startswith("sg-"):
        source: dict[str, Any] = {"UserIdGroupPairs": [{"GroupId": rule.source}]}
    elif rule.source.startswith("pl-"):
        source = {"PrefixListIds": [{"PrefixListId": rule.source}]}
    elif ":" in rule.source:
        source = {"Ipv6Ranges": [{"CidrIpv6": rule.source}]}
    else:
        source = {"IpRanges": [{"CidrIp": rule.source}]}
    if rule.protocol == "all":
        return {"IpProtocol": "-1", **source}
    return {"IpProtocol": rule.protocol, "FromPort": rule.low, "ToPort": rule.high, **source}
