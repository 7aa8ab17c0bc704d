"""Which of the permissions that Milpa needs the credentials have, found out without changing anything.

EC2 is asked by dry run. Reads are made. Other changes are asked of things that do not exist, since AWS checks the
permission first: it says either "denied" or "not found". What neither way can tell is in ``UNTESTED``. What a missing
permission means for Milpa is for ``doctor``.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from cloud.aws import cluster_lock
from cloud.aws.errors import CloudForbidden
from cloud.aws.session import AwsSession
from milpa_ray.errors import CloudRefused, MilpaError

NO_INSTANCE = "i-00000000000000000"
NO_GROUP = "sg-00000000000000000"
NO_VOLUME = "vol-00000000000000000"
NO_SUBNET = "subnet-00000000000000000"
NO_ZONE = "Z00000000000000000000"
NO_BALANCER = "milpa-doctor-none"

UNTESTED = frozenset(
    {
        "dynamodb:CreateTable",
        "elasticloadbalancing:CreateLoadBalancer",
        "iam:CreateServiceLinkedRole",
        "pricing:GetProducts",
        "route53:CreateHostedZone",
    }
)
"""Permissions of which no probe tells whether they are there: it would make something, or ask another region's API."""


class Verdict(Enum):
    """What a probe found out."""

    ALLOWED = auto()
    DENIED = auto()
    UNKNOWN = auto()
    """The API did not answer, or asked to come back later."""


@dataclass(frozen=True, slots=True)
class Probe:
    """One harmless call that needs the permission ``action``."""

    action: str
    service: str
    operation: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Permission:
    """``message`` is AWS' own when the verdict is not ALLOWED."""

    action: str
    verdict: Verdict
    message: str = ""


@dataclass(frozen=True, slots=True)
class Scene:
    """Where, and what a real launch would name; empty where it is not known."""

    region: str
    instance_type: str
    image: str = ""
    subnet: str = ""
    vpc: str = ""


def probes(scene: Scene) -> Sequence[Probe]:
    """One probe for each permission that can be tested."""
    return [*_ec2_reads(scene), *_ec2_changes(scene), *_lock(), *_dns(), *_balancers()]


async def examine_permissions(session: AwsSession, scene: Scene) -> list[Permission]:
    """Sends all probes, as many at a time as the session has threads. Never raises for what AWS answers."""
    return list(await asyncio.gather(*(_send(session, probe) for probe in probes(scene))))


async def _send(session: AwsSession, probe: Probe) -> Permission:
    try:
        await session.call(probe.service, probe.operation, **probe.parameters)
    except CloudForbidden as error:
        return Permission(probe.action, Verdict.DENIED, str(error))
    except CloudRefused:
        # "DryRunOperation" says that the call would have succeeded; any other refusal comes after the permission.
        return Permission(probe.action, Verdict.ALLOWED)
    except MilpaError as error:
        return Permission(probe.action, Verdict.UNKNOWN, str(error))
    return Permission(probe.action, Verdict.ALLOWED)


def _ec2(operation: str, **parameters: Any) -> Probe:
    return Probe(f"ec2:{operation}", "ec2", operation, parameters)


def _ec2_reads(scene: Scene) -> list[Probe]:
    type_ = scene.instance_type
    return [
        _ec2("DescribeImages", Owners=["self"], MaxResults=5),
        _ec2("DescribeInstances", MaxResults=5),
        _ec2("DescribeRegions", RegionNames=[scene.region]),
        _ec2("DescribeInstanceTypeOfferings", Filters=[{"Name": "instance-type", "Values": [type_]}]),
        _ec2("DescribeInstanceTypes", InstanceTypes=[type_]),
        _ec2("DescribeRouteTables", MaxResults=5),
        _ec2("DescribeSecurityGroups", MaxResults=5),
        _ec2("DescribeSpotPriceHistory", InstanceTypes=[type_], MaxResults=1),
        _ec2("DescribeSubnets", MaxResults=5),
        _ec2("DescribeVolumes", MaxResults=5),
        _ec2("DescribeVpcs", MaxResults=5),
    ]


def _ec2_changes(scene: Scene) -> list[Probe]:
    rule = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": "192.0.2.0/32"}]}
    group: dict[str, Any] = {"GroupId": NO_GROUP, "IpPermissions": [rule], "DryRun": True}
    tags = [{"Key": "milpa-doctor", "Value": ""}]
    launch: dict[str, Any] = {"ImageId": scene.image or "ami-00000000000000000", "InstanceType": scene.instance_type}
    if scene.subnet:
        launch["SubnetId"] = scene.subnet
    made = {"GroupName": NO_BALANCER, "Description": "milpa doctor, dry run"}
    if scene.vpc:
        made["VpcId"] = scene.vpc
    return [
        _ec2("RunInstances", **launch, MinCount=1, MaxCount=1, DryRun=True),
        _ec2("TerminateInstances", InstanceIds=[NO_INSTANCE], DryRun=True),
        _ec2("CreateTags", Resources=[NO_INSTANCE], Tags=tags, DryRun=True),
        _ec2("ModifyInstanceAttribute", InstanceId=NO_INSTANCE, Groups=[NO_GROUP], DryRun=True),
        _ec2("ModifyVolume", VolumeId=NO_VOLUME, Size=8, DryRun=True),
        _ec2("CreateSecurityGroup", **made, DryRun=True),
        _ec2("DeleteSecurityGroup", GroupId=NO_GROUP, DryRun=True),
        _ec2("AuthorizeSecurityGroupIngress", **group),
        _ec2("RevokeSecurityGroupIngress", **group),
    ]


def _lock() -> list[Probe]:
    """Names a cluster that nobody can have, under conditions that are never true."""
    key = {"clusterName": {"S": "/"}}
    never = {"ConditionExpression": "attribute_exists(clusterName)"}

    def probe(operation: str, **parameters: Any) -> Probe:
        return Probe(f"dynamodb:{operation}", "dynamodb", operation, {"TableName": cluster_lock.TABLE, **parameters})

    return [
        probe("DescribeTable"),
        probe("GetItem", Key=key),
        probe("PutItem", Item=key, **never),
        probe("DeleteItem", Key=key, **never),
    ]


def _dns() -> list[Probe]:
    record = {"Name": "milpa-doctor.invalid.", "Type": "A", "TTL": 30, "ResourceRecords": [{"Value": "192.0.2.1"}]}
    batch = {"Changes": [{"Action": "DELETE", "ResourceRecordSet": record}]}

    def probe(operation: str, **parameters: Any) -> Probe:
        return Probe(f"route53:{operation}", "route53", operation, parameters)

    return [
        probe("ListHostedZonesByName", MaxItems="1"),
        probe("ListResourceRecordSets", HostedZoneId=NO_ZONE),
        probe("ChangeResourceRecordSets", HostedZoneId=NO_ZONE, ChangeBatch=batch),
        probe("ChangeTagsForResource", ResourceType="hostedzone", ResourceId=NO_ZONE, RemoveTagKeys=["milpa-doctor"]),
        probe("DeleteHostedZone", Id=NO_ZONE),
    ]


def _balancers() -> list[Probe]:
    listener = {"Protocol": "TCP", "LoadBalancerPort": 1, "InstanceProtocol": "TCP", "InstancePort": 1}
    check = {"Target": "TCP:1", "Interval": 30, "Timeout": 5, "UnhealthyThreshold": 2, "HealthyThreshold": 2}
    certificate = "arn:aws:acm:us-east-1:000000000000:certificate/00000000-0000-0000-0000-000000000000"
    one = {"LoadBalancerName": NO_BALANCER}
    some = {"LoadBalancerNames": [NO_BALANCER]}
    instances = {**one, "Instances": [{"InstanceId": NO_INSTANCE}]}
    calls: dict[str, dict[str, Any]] = {
        "DescribeLoadBalancers": {"PageSize": 1},
        "DescribeLoadBalancerAttributes": one,
        "DescribeTags": some,
        "AddTags": {**some, "Tags": [{"Key": "milpa-doctor", "Value": ""}]},
        "RemoveTags": {**some, "Tags": [{"Key": "milpa-doctor"}]},
        "ApplySecurityGroupsToLoadBalancer": {**one, "SecurityGroups": [NO_GROUP]},
        "AttachLoadBalancerToSubnets": {**one, "Subnets": [NO_SUBNET]},
        "ConfigureHealthCheck": {**one, "HealthCheck": check},
        "CreateLoadBalancerListeners": {**one, "Listeners": [listener]},
        "DeleteLoadBalancerListeners": {**one, "LoadBalancerPorts": [1]},
        "SetLoadBalancerListenerSSLCertificate": {**one, "LoadBalancerPort": 1, "SSLCertificateId": certificate},
        "ModifyLoadBalancerAttributes": {**one, "LoadBalancerAttributes": {"ConnectionDraining": {"Enabled": False}}},
        "RegisterInstancesWithLoadBalancer": instances,
        "DeregisterInstancesFromLoadBalancer": instances,
        "DeleteLoadBalancer": one,
    }
    return [Probe(f"elasticloadbalancing:{name}", "elb", name, parameters) for name, parameters in calls.items()]
