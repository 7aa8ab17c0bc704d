"""The compute port on EC2: launches in batches, one list of all instances, terminations, tags and volumes.

Retries nothing and remembers no launch: what is to be repeated, and with which token, is the caller's, whose recorded
call is all that a launch depends on. Where EC2 refuses a call for one id of many, it is made again without that one.
"""

import logging
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cloud.aws.errors import translate_launch
from cloud.aws.images import Image, Images
from cloud.aws.network import Network
from cloud.aws.session import AwsSession
from cloud.aws.tags import check_tags, from_tags, grouped, to_tags
from milpa_ray.errors import CapacityScope, CloudRefused, LaunchOutdated, LaunchRejected, MilpaError, NoCapacity
from milpa_ray.planner.garbage import BATCH_TAG, CLUSTER_TAG, UUID_TAG
from milpa_ray.ports import Instance, InstanceState, LaunchCall

log = logging.getLogger(__name__)

MOST_IDS = 500
"""Instances of one terminate or tag call; EC2 takes 1,000."""
PAGE_SIZE = 1000
"""Instances of one page of the list; EC2's most."""
VOLUME_TYPE = "gp3"
UNKNOWN_ID_CODES = frozenset({"InvalidID", "InvalidInstanceID.Malformed", "InvalidInstanceID.NotFound"})
REFUSED_ONE_CODES = frozenset({"OperationNotPermitted", "UnsupportedOperation", "IncorrectInstanceState"})
"""Codes for which one instance of many makes EC2 refuse them all, without naming it."""
_INSTANCE_ID = re.compile(r"\bi-[0-9a-f]+\b")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What launches are made of besides the call. ``arch_of`` tells a type's architecture (amd64 or arm64; empty for
    one that it does not know); ``node_groups`` the security groups that every instance is in."""

    images: Images
    network: Network
    arch_of: Callable[[str], str]
    node_groups: Callable[[], Awaitable[tuple[str, ...]]]


class Ec2Compute:
    """Implements ``milpa_ray.ports.Compute`` for one cluster."""

    def __init__(self, aws: AwsSession, cluster: str, surroundings: Surroundings) -> None:
        self._aws = aws
        self._cluster = cluster
        self._around = surroundings

    # ------------------------------------------------------------ launch

    async def prepare(self, call: LaunchCall) -> LaunchCall:
        """As ``Compute.prepare``."""
        around = self._around
        arch = around.arch_of(call.instance_type)
        if not arch:
            raise LaunchRejected(
                "InvalidParameterValue", f"instance type {call.instance_type!r} does not exist in {self._aws.region}"
            )
        check_tags(f"launch of {call.instance_type}", call.tags, (BATCH_TAG,))
        image = await (around.images.by_id(call.image) if call.image else around.images.newest(arch))
        groups = call.security_groups or await around.node_groups()
        subnet, zone = call.subnet, call.zone
        if not subnet:
            chosen = await around.network.choose(zone, private=call.private_ip_only, count=call.count)
            subnet, zone = chosen.id, chosen.zone
        return replace(
            call,
            image=image.id,
            zone=zone,
            subnet=subnet,
            security_groups=groups,
            volume_gib=max(call.volume_gib, image.root_gib),
        )

    async def launch(self, call: LaunchCall) -> Sequence[Instance]:
        """As ``Compute.launch``: launches as many as EC2 has, at least one. The call must be a prepared one."""
        try:
            image = await self._around.images.by_id(call.image)
            answer = await self._aws.call("ec2", "RunInstances", **run_instances(call, image))
        except MilpaError as error:
            translated = translate_launch(error)
            self._learn(call, translated)
            raise translated from error
        return [_instance(told) for told in answer["Instances"]]

    def _learn(self, call: LaunchCall, error: MilpaError) -> None:
        """What the next launch is not to be given again."""
        if isinstance(error, LaunchOutdated):
            self._around.images.forget()
            self._around.network.forget()
        elif isinstance(error, NoCapacity) and error.scope == CapacityScope.SUBNET:
            self._around.network.note_full(call.subnet)

    # ------------------------------------------------------------ list, terminate

    async def list_instances(self) -> Sequence[Instance]:
        """As ``Compute.list_instances``; one call per 1,000 instances."""
        filters = [{"Name": f"tag:{CLUSTER_TAG}", "Values": [self._cluster]}]
        found: list[Instance] = []
        async for page in self._aws.pages("ec2", "DescribeInstances", Filters=filters, MaxResults=PAGE_SIZE):
            found += [_instance(told) for group in page["Reservations"] for told in group["Instances"]]
        return found

    async def terminate(self, instance_ids: Sequence[str]) -> Mapping[str, InstanceState]:
        """As ``Compute.terminate``. Instances that EC2 refuses to end are left out and logged."""
        states: dict[str, InstanceState] = {}
        for ids in _chunks(dict.fromkeys(instance_ids)):
            states |= await self._terminate(ids)
        return states

    async def _terminate(self, ids: list[str]) -> dict[str, InstanceState]:
        try:
            answer = await self._of_known("TerminateInstances", "InstanceIds", ids, {})
        except CloudRefused as error:
            if error.code not in REFUSED_ONE_CODES:
                raise
            if len(ids) == 1:
                log.error("EC2 refuses to terminate %s: %s", ids[0], error)
                return {}
            # One is protected, say; which one only halving tells.
            middle = len(ids) // 2
            return await self._terminate(ids[:middle]) | await self._terminate(ids[middle:])
        told = answer.get("TerminatingInstances", ())
        return {str(one["InstanceId"]): InstanceState(one["CurrentState"]["Name"]) for one in told}

    # ------------------------------------------------------------ labels, volumes

    async def label(self, tags: Mapping[str, Mapping[str, str]]) -> None:
        """As ``Compute.label``; instances with equal tags share a call."""
        for instance_id, wanted in tags.items():
            check_tags(f"instance {instance_id}", wanted, (BATCH_TAG, CLUSTER_TAG, UUID_TAG))
        for ids, wanted in grouped(tags):
            for chunk in _chunks(ids):
                await self._of_known("CreateTags", "Resources", chunk, {"Tags": to_tags(wanted)})

    async def grow_volume(self, instance_id: str, gib: int) -> None:
        """As ``Compute.grow_volume``.

        Raises:
            CloudRefused: EC2 does not change it, for instance because it was changed within the last six hours.
        """
        instances = await self._aws.call("ec2", "DescribeInstances", InstanceIds=[instance_id])
        volume_ids = [
            device["Ebs"]["VolumeId"]
            for group in instances["Reservations"]
            for told in group["Instances"]
            for device in told.get("BlockDeviceMappings", ())
            if device.get("DeviceName") == told.get("RootDeviceName")
        ]
        if not volume_ids:
            raise CloudRefused("InvalidAttachment.NotFound", f"instance {instance_id} has no root volume")
        volumes = await self._aws.call("ec2", "DescribeVolumes", VolumeIds=volume_ids)
        if int(volumes["Volumes"][0]["Size"]) < gib:
            await self._aws.call("ec2", "ModifyVolume", VolumeId=volume_ids[0], Size=gib)

    # ------------------------------------------------------------ ids

    async def _of_known(
        self, operation: str, parameter: str, ids: list[str], parameters: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Makes the call for those of the ids that EC2 knows; it refuses the whole call for one that it does not."""
        left = ids
        while left:
            try:
                return await self._aws.call("ec2", operation, **{parameter: left}, **parameters)
            except CloudRefused as error:
                unknown = set(_INSTANCE_ID.findall(str(error))) & set(left)
                if error.code not in UNKNOWN_ID_CODES or not unknown:
                    raise
                left = [id_ for id_ in left if id_ not in unknown]
        return {}


def run_instances(call: LaunchCall, image: Image) -> dict[str, Any]:
    """The parameters of ``RunInstances``: a function of the recorded call and of facts that never change, so that a
    repeated call is the same to the byte, as the client token demands."""
    tags = to_tags({**call.tags, BATCH_TAG: call.token})
    resources = ["instance", "volume", "network-interface"]
    disk = {"VolumeType": VOLUME_TYPE, "Encrypted": True, "DeleteOnTermination": True}
    if call.volume_gib:
        disk["VolumeSize"] = call.volume_gib
    parameters: dict[str, Any] = {
        "ClientToken": call.token,
        "MinCount": 1,
        "MaxCount": call.count,
        "InstanceType": call.instance_type,
        "ImageId": call.image,
        "UserData": call.user_data,
        "InstanceInitiatedShutdownBehavior": "terminate",
        "MetadataOptions": {"HttpEndpoint": "enabled", "HttpTokens": "required", "HttpPutResponseHopLimit": 1},
        "BlockDeviceMappings": [{"DeviceName": image.root_device, "Ebs": disk}],
        "NetworkInterfaces": [
            {
                "DeviceIndex": 0,
                "SubnetId": call.subnet,
                "Groups": list(call.security_groups),
                "AssociatePublicIpAddress": not call.private_ip_only,
                "DeleteOnTermination": True,
            }
        ],
    }
    if call.credits:
        parameters["CreditSpecification"] = {"CpuCredits": call.credits}
    if call.spot:
        resources.append("spot-instances-request")
        parameters["InstanceMarketOptions"] = {
            "MarketType": "spot",
            "SpotOptions": {"SpotInstanceType": "one-time", "InstanceInterruptionBehavior": "terminate"},
        }
    parameters["TagSpecifications"] = [{"ResourceType": resource, "Tags": tags} for resource in resources]
    return parameters


def _instance(told: Mapping[str, Any]) -> Instance:
    tags = from_tags(told.get("Tags"))
    launched = told.get("LaunchTime")
    carriers = [told.get("SecurityGroups", ()), *(card.get("Groups", ()) for card in told.get("NetworkInterfaces", ()))]
    return Instance(
        id=str(told["InstanceId"]),
        state=InstanceState(told["State"]["Name"]),
        token=tags.get(BATCH_TAG) or str(told.get("ClientToken", "")),
        launch_index=int(told.get("AmiLaunchIndex", 0)),
        instance_type=str(told.get("InstanceType", "")),
        zone=str(told.get("Placement", {}).get("AvailabilityZone", "")),
        spot=told.get("InstanceLifecycle") == "spot",
        private_ip=str(told.get("PrivateIpAddress") or ""),
        private_dns=str(told.get("PrivateDnsName") or ""),
        public_ip=str(told.get("PublicIpAddress") or ""),
        public_dns=str(told.get("PublicDnsName") or ""),
        launched_at=launched.timestamp() if launched is not None else 0.0,
        tags=tags,
        security_groups=tuple(sorted({str(group["GroupId"]) for one in carriers for group in one})),
    )


def _chunks(ids: Iterable[str]) -> list[list[str]]:
    known = list(ids)
    return [known[start : start + MOST_IDS] for start in range(0, len(known), MOST_IDS)]
