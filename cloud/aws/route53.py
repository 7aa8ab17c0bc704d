"""The DNS port on Route53: a private zone ``<cluster>.local`` in the VPC, with A and SRV records.

The zone is ours if its caller reference begins with our cluster's uuid. The records that the last call left are
remembered, so that a change is one request; whatever fails makes us look again. Which records there should be is not
decided here.
"""

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable
from typing import Any

from cloud.aws.session import AwsSession
from cloud.aws.zone_changes import (
    DELETE,
    MAX_VALUES,
    Change,
    RecordSet,
    batches,
    changes,
    from_record_set,
    normal,
)
from milpa_ray.errors import CloudRefused, CloudUnavailable, Invalid
from milpa_ray.planner.garbage import CLUSTER_TAG, UUID_TAG
from milpa_ray.ports import DnsRecord

log = logging.getLogger(__name__)

_NO_ZONE = "NoSuchHostedZone"
_NOT_AS_EXPECTED = frozenset({"InvalidChangeBatch", "InvalidInput"})
_OWN_TYPES = frozenset({"NS", "SOA"})
"""Records at the top of a zone that belong to the zone itself."""


def zone_name(cluster: str) -> str:
    """Name of the cluster's zone, without the dot at its end."""
    return f"{cluster}.local"


class PrivateZone:
    """Implements ``milpa_ray.ports.Dns`` for one cluster in one VPC."""

    def __init__(self, aws: AwsSession, cluster: str, cluster_uuid: str, vpc_id: Callable[[], Awaitable[str]]) -> None:
        """``vpc_id`` answers with the VPC's id; it may ask the cloud."""
        self._aws = aws
        self._cluster = cluster
        self._uuid = cluster_uuid
        self._vpc_id = vpc_id
        self._name = zone_name(cluster)
        self._zone_id = ""
        self._known: dict[tuple[str, str], DnsRecord] | None = None
        self._wanted: tuple[DnsRecord, ...] = ()
        self._look = True
        self._asked = self._done = 0
        self._one_by_one = asyncio.Lock()

    # ------------------------------------------------------------ port

    async def set_records(self, wanted: Collection[DnsRecord], *, look: bool = False) -> None:
        """As ``Dns.set_records``."""
        self._wanted = tuple(wanted)
        self._look = self._look or look
        self._asked += 1
        ticket = self._asked
        async with self._one_by_one:
            if self._done >= ticket:
                return  # a call before us in the queue has done it, for something newer
            newest = self._asked
            await self._bring([self._normal(record) for record in self._wanted])
            self._done = newest

    async def remove_zone(self) -> None:
        """As ``Dns.remove_zone``."""
        async with self._one_by_one:
            zone = await self._find()
            self._forget(zone="")
            if zone is None:
                return
            top = f"{self._name}."
            left = [
                Change(DELETE, found)
                async for found in self._record_sets(zone)
                if found["Name"] != top or found["Type"] not in _OWN_TYPES
            ]
            for batch in batches(left):
                await self._send(zone, batch)
            try:
                await self._aws.call("route53", "DeleteHostedZone", Id=zone)
            except CloudRefused as error:
                if error.code == "HostedZoneNotEmpty":
                    raise CloudUnavailable(f"{error}; its records are to be listed again") from error
                if error.code != _NO_ZONE:
                    raise

    def _normal(self, record: DnsRecord) -> DnsRecord:
        if len(set(record.values)) > MAX_VALUES:
            log.warning(
                "%s.%s: only %d of %d values fit a Route53 record",
                record.name,
                self._name,
                MAX_VALUES,
                len(record.values),
            )
        return normal(record)

    # ------------------------------------------------------------ records

    async def _bring(self, wanted: list[DnsRecord]) -> None:
        looked = False
        while True:
            zone = self._zone_id or await self._ensure()
            try:
                if self._known is None or self._look:
                    self._known = await self._records(zone)
                    self._look, looked = False, True
                await self._change(zone, changes(wanted, self._known.values(), self._name), wanted)
                return
            except CloudRefused as error:
                self._forget(zone="" if error.code == _NO_ZONE else zone)
                if looked or error.code not in {_NO_ZONE, *_NOT_AS_EXPECTED}:
                    raise
                log.info("zone %s is not as it was left: %s; looking again", self._name, error)
            except BaseException:
                self._forget(zone=zone)  # what was sent may have taken effect or not
                raise

    def _forget(self, zone: str) -> None:
        self._zone_id = zone
        self._known = None

    async def _change(self, zone: str, found: list[Change], wanted: Iterable[DnsRecord]) -> None:
        for batch in batches(found):
            await self._send(zone, batch)
        self._known = {(record.name, record.type): record for record in wanted}

    async def _send(self, zone: str, batch: Iterable[Change]) -> None:
        told = [{"Action": change.action, "ResourceRecordSet": change.record_set} for change in batch]
        await self._aws.call("route53", "ChangeResourceRecordSets", HostedZoneId=zone, ChangeBatch={"Changes": told})

    async def _records(self, zone: str) -> dict[tuple[str, str], DnsRecord]:
        found: dict[tuple[str, str], DnsRecord] = {}
        async for record_set in self._record_sets(zone):
            record = from_record_set(record_set, self._name)
            if record is not None:
                found[record.name, record.type] = record
        return found

    async def _record_sets(self, zone: str) -> AsyncIterator[RecordSet]:
        start: dict[str, str] = {}
        while True:
            page = await self._aws.call("route53", "ListResourceRecordSets", HostedZoneId=zone, **start)
            for found in page["ResourceRecordSets"]:
                yield found
            if not page.get("IsTruncated"):
                return
            start = {"StartRecordName": page["NextRecordName"], "StartRecordType": page["NextRecordType"]}
            if page.get("NextRecordIdentifier"):
                start["StartRecordIdentifier"] = page["NextRecordIdentifier"]

    # ------------------------------------------------------------ zone

    async def _ensure(self) -> str:
        """The zone's id; it is made if it is not there."""
        found = await self._find()
        if found is None:
            found = await self._make(f"milpa-{self._uuid}")
        if found is None:
            # The reference was used up by a zone that has been removed since.
            found = await self._make(f"milpa-{self._uuid}-{secrets.token_hex(4)}")
        if found is None:
            raise CloudUnavailable(f"Route53 says that zone {self._name} is there already, and does not show it")
        self._zone_id = found
        return found

    async def _make(self, reference: str) -> str | None:
        """Makes the zone; None if a zone with that reference was made before and is not shown."""
        try:
            made = await self._aws.call(
                "route53",
                "CreateHostedZone",
                Name=f"{self._name}.",
                CallerReference=reference,
                VPC={"VPCRegion": self._aws.region, "VPCId": await self._vpc_id()},
                HostedZoneConfig={"Comment": f"Milpa cluster {self._cluster} ({self._uuid})", "PrivateZone": True},
            )
        except CloudRefused as error:
            if error.code == "HostedZoneAlreadyExists":
                return await self._find()
            if error.code == "ConflictingDomainExists":
                raise Invalid(
                    f"Route53 zone {self._name}: the VPC has a private zone of that name which is not of this cluster; "
                    "delete it if nothing needs it, or choose another clusterName"
                ) from error
            raise
        zone = _bare(made["HostedZone"]["Id"])
        tags: list[dict[str, Any]] = [
            {"Key": CLUSTER_TAG, "Value": self._cluster},
            {"Key": UUID_TAG, "Value": self._uuid},
        ]
        await self._aws.call(
            "route53", "ChangeTagsForResource", ResourceType="hostedzone", ResourceId=zone, AddTags=tags
        )
        return zone

    async def _find(self) -> str | None:
        """Our zone of that name; zones of others may have the same."""
        name = f"{self._name}."
        start = {"DNSName": name}
        while True:
            page = await self._aws.call("route53", "ListHostedZonesByName", **start)
            for zone in page["HostedZones"]:
                if zone["Name"] == name and zone["CallerReference"].startswith(f"milpa-{self._uuid}"):
                    return _bare(zone["Id"])
            if not page.get("IsTruncated") or page.get("NextDNSName") != name:
                return None
            start = {"DNSName": name, "HostedZoneId": page["NextHostedZoneId"]}


def _bare(zone_id: str) -> str:
    """Without the path that Route53 puts before it."""
    return zone_id.removeprefix("/hostedzone/")
