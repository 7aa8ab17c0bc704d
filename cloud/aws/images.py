"""Boot images: the newest available one of an owner that has all the wanted tags, for each architecture.

Answers are kept for some minutes, so that a burst of launches asks once and a new image is taken up soon.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cloud.aws.session import AwsSession
from milpa_ray.errors import CloudNotReady, CloudRefused, LaunchOutdated

KEPT_S = 300.0
ARCHITECTURES = {"amd64": "x86_64", "arm64": "arm64"}
"""EC2's names of ours."""


@dataclass(frozen=True, slots=True)
class Image:
    """``root_device`` is its name, such as /dev/xvda; ``root_gib`` the least size that its volume can have."""

    id: str
    root_device: str
    root_gib: int


class Images:
    """The images that may be booted."""

    def __init__(self, aws: AwsSession, owner: str, tags: Mapping[str, str]) -> None:
        """``owner`` is an account's 12 digits or one of EC2's own names (``amazon``); empty: our own account."""
        self._aws = aws
        self._owner = owner or "self"
        self._tags = dict(tags)
        self._newest: dict[str, tuple[float, Image]] = {}
        self._known: dict[str, Image] = {}
        self._one_by_one = asyncio.Lock()

    async def newest(self, arch: str) -> Image:
        """The newest image for ``arch`` (amd64 or arm64).

        Raises:
            CloudNotReady: there is none. Others as ``AwsSession.call``.
        """
        async with self._one_by_one:
            now = asyncio.get_running_loop().time()
            at, image = self._newest.get(arch, (0.0, None))
            if image is None or now - at >= KEPT_S:
                image = await self._find(arch)
                self._newest[arch] = (now, image)
            return image

    async def by_id(self, image_id: str) -> Image:
        """The facts of an image; they never change.

        Raises:
            LaunchOutdated: it is gone, or never was. Others as ``AwsSession.call``.
        """
        if image_id not in self._known:
            try:
                answer = await self._aws.call("ec2", "DescribeImages", ImageIds=[image_id])
            except CloudRefused as error:
                if error.code.startswith("InvalidAMIID"):
                    raise LaunchOutdated(error.code, f"image {image_id}: {error}") from error
                raise
            if not answer["Images"]:
                raise LaunchOutdated("InvalidAMIID.NotFound", f"image {image_id} is gone")
            self._remember(answer["Images"][0])
        return self._known[image_id]

    def forget(self) -> None:
        """Asks anew from now on: an image that was handed out is gone."""
        self._newest.clear()
        self._known.clear()

    async def _find(self, arch: str) -> Image:
        if not self._tags:
            raise CloudNotReady(
                "nodes.bootImageTags is empty, so any image of the account might be booted: "
                "write the tags of the node image into server.yml"
            )
        filters = [
            {"Name": "state", "Values": ["available"]},
            {"Name": "architecture", "Values": [ARCHITECTURES.get(arch, arch)]},
            *({"Name": f"tag:{key}", "Values": [value]} for key, value in sorted(self._tags.items())),
        ]
        found: list[dict[str, Any]] = []
        async for page in self._aws.pages("ec2", "DescribeImages", Owners=[self._owner], Filters=filters):
            found += page["Images"]
        if not found:
            raise CloudNotReady(self._none(arch))
        return self._remember(max(found, key=lambda image: (image.get("CreationDate", ""), image["ImageId"])))

    def _none(self, arch: str) -> str:
        tags = ", ".join(f"{key}={value}" for key, value in sorted(self._tags.items()))
        whose = "this account" if self._owner == "self" else f"owner {self._owner} (cloud.aws.imageOwnerID)"
        return (
            f"no available {arch} image of {whose} in {self._aws.region} has all of nodes.bootImageTags ({tags}): "
            "build one as docs/aws.md describes, or mend the tags; tags on another account's images are not visible "
            "here, so copy such an image into this account and tag the copy"
        )

    def _remember(self, told: Mapping[str, Any]) -> Image:
        root = str(told.get("RootDeviceName") or "/dev/xvda")
        sizes = [
            int(device.get("Ebs", {}).get("VolumeSize") or 0)
            for device in told.get("BlockDeviceMappings", ())
            if device.get("DeviceName") == root
        ]
        image = Image(str(told["ImageId"]), root, max(sizes, default=0))
        self._known[image.id] = image
        return image
