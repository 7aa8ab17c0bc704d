"""Where instances are placed: the VPC that the settings mean, its subnets, and which of them a launch gets.

A subnet is public when its route table, or the VPC's main one where it has none of its own, has a route to an internet
gateway. Instances with a public address go to public subnets; those without to private ones, or to any where the VPC
has public subnets only. Of several, the one with most free addresses is taken, which spreads by itself.
"""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cloud.aws.metadata import NotOnEc2, own_vpc
from cloud.aws.session import AwsSession
from milpa_ray.errors import CapacityScope, CloudNotReady, CloudRefused, NoCapacity

KEPT_S = 60.0
"""How long subnets, routes and counts of free addresses are taken for true (our own launches are counted)."""
FULL_S = 180.0
"""How long a subnet that was refused for lack of addresses is left out."""


@dataclass(slots=True)
class Subnet:
    """``free`` is the number of addresses that nobody has."""

    id: str
    zone: str
    public: bool
    free: int


class Network:
    """One VPC. ``vpc`` is a VPC's id, ``default``, or empty for the VPC that this machine is in."""

    def __init__(self, aws: AwsSession, vpc: str) -> None:
        self._aws = aws
        self._setting = vpc
        self._vpc = ""
        self._subnets: list[Subnet] = []
        self._read_at = 0.0
        self._full: dict[str, float] = {}
        self._one_by_one = asyncio.Lock()

    async def vpc_id(self) -> str:
        """The VPC's id; asked once.

        Raises:
            CloudNotReady: there is no such VPC. Others as ``AwsSession.call``.
        """
        if not self._vpc:
            self._vpc = await self._find_vpc()
        return self._vpc

    async def subnets(self) -> list[Subnet]:
        """All subnets that instances can be launched into. Raises as ``vpc_id``."""
        async with self._one_by_one:
            now = asyncio.get_running_loop().time()
            if not self._read_at or now - self._read_at >= KEPT_S:
                self._subnets = await self._read()
                self._read_at = now
                self._full = {id_: until for id_, until in self._full.items() if until > now}
            return self._subnets

    async def choose(self, zone: str, *, private: bool, count: int) -> Subnet:
        """The subnet for ``count`` more instances in ``zone`` (empty: any); their addresses count as taken.

        Raises:
            NoCapacity: none there, but there may be in another zone. CloudNotReady: none in the whole VPC.
            Others as ``AwsSession.call``.
        """
        fit = suitable(await self.subnets(), private=private)
        kind = "private" if private else "public"
        if not fit:
            raise CloudNotReady(
                f"VPC {self._vpc} has no subnet with a route to an internet gateway: add one, or set "
                "spec.resources.privateIPOnly in the pods"
                if self._subnets
                else f"VPC {self._vpc} (cloud.aws.vpcID) has no available IPv4 subnet: add one"
            )
        here = [subnet for subnet in fit if zone in ("", subnet.zone)]
        where = f"zone {zone}" if zone else "any zone"
        if not here:
            raise NoCapacity(
                "NoSubnet",
                f"VPC {self._vpc} has no {kind} subnet in {where}, only in "
                + ", ".join(sorted({subnet.zone for subnet in fit})),
                CapacityScope.SUBNET,
            )
        now = asyncio.get_running_loop().time()
        open_ = [subnet for subnet in here if subnet.free > 0 and self._full.get(subnet.id, 0.0) <= now]
        if not open_:
            raise NoCapacity(
                "InsufficientFreeAddressesInSubnet",
                f"no {kind} subnet of VPC {self._vpc} in {where} has free addresses: add a subnet there",
                CapacityScope.SUBNET,
            )
        chosen = max(open_, key=lambda subnet: (subnet.free, subnet.id))
        chosen.free -= count
        return chosen

    def note_full(self, subnet_id: str) -> None:
        """A launch there was refused for lack of addresses."""
        self._full[subnet_id] = asyncio.get_running_loop().time() + FULL_S

    def forget(self) -> None:
        """Reads the subnets anew at the next question: one that was handed out is gone."""
        self._read_at = 0.0

    async def _find_vpc(self) -> str:
        wish = self._setting
        if not wish:
            try:
                wish = await self._aws.in_thread(own_vpc)
            except NotOnEc2 as error:
                raise CloudNotReady(
                    f"cloud.aws.vpcID is empty, and this machine is in no VPC ({error}): write a VPC's id or 'default'"
                ) from error
        given: dict[str, Any] = {"VpcIds": [wish]}
        if wish == "default":
            given = {"Filters": [{"Name": "is-default", "Values": ["true"]}]}
        try:
            found = (await self._aws.call("ec2", "DescribeVpcs", **given))["Vpcs"]
        except CloudRefused as error:
            if error.code.startswith("InvalidVpc"):
                raise CloudNotReady(
                    f"cloud.aws.vpcID: {wish} does not exist in {self._aws.region}: write the id of one, or 'default'"
                ) from error
            raise
        if not found:
            raise CloudNotReady(
                f"cloud.aws.vpcID is 'default', but {self._aws.region} has no default VPC: write a VPC's id"
            )
        return str(found[0]["VpcId"])

    async def _read(self) -> list[Subnet]:
        filters = [{"Name": "vpc-id", "Values": [await self.vpc_id()]}]
        subnets: list[dict[str, Any]] = []
        async for page in self._aws.pages("ec2", "DescribeSubnets", Filters=filters):
            subnets += page["Subnets"]
        tables: list[dict[str, Any]] = []
        async for page in self._aws.pages("ec2", "DescribeRouteTables", Filters=filters):
            tables += page["RouteTables"]
        public = public_subnets((subnet["SubnetId"] for subnet in subnets), tables)
        return [
            Subnet(
                str(subnet["SubnetId"]),
                str(subnet["AvailabilityZone"]),
                subnet["SubnetId"] in public,
                int(subnet["AvailableIpAddressCount"]),
            )
            for subnet in subnets
            if subnet.get("State", "available") == "available" and not subnet.get("Ipv6Native")
        ]


def suitable(subnets: Iterable[Subnet], *, private: bool) -> list[Subnet]:
    """Those that instances with, or without (``private``), a public address may be in."""
    known = list(subnets)
    fit = [subnet for subnet in known if subnet.public != private]
    return fit or known if private else fit


def public_subnets(subnet_ids: Iterable[str], tables: Iterable[Mapping[str, Any]]) -> set[str]:
    """Those whose route table, as EC2 describes them, leads to an internet gateway."""
    by_subnet: dict[str, bool] = {}
    by_default = False
    for table in tables:
        leads_out = any(
            str(route.get("GatewayId", "")).startswith("igw-") and route.get("State", "active") == "active"
            for route in table.get("Routes", ())
        )
        for association in table.get("Associations", ()):
            if association.get("SubnetId"):
                by_subnet[association["SubnetId"]] = leads_out
            elif association.get("Main"):
                by_default = leads_out
    return {id_ for id_ in subnet_ids if by_subnet.get(id_, by_default)}
