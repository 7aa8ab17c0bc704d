"""Whether and as what a launch is let in: checks, capacity, addresses, and the records of its instances.

Decides only; stores and starts nothing. Refusals carry EC2's error codes.
"""

import hashlib
import ipaddress
import json
import secrets
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass

from cloud.local.faults import FaultBook, FaultKind
from cloud.local.network import Network
from cloud.local.records import InstanceRecord
from milpa_ray.errors import LaunchRejected, NoCapacity
from milpa_ray.ports import LaunchCall
from milpa_ray.userdata import MAX_USER_DATA

MAX_LAUNCH = 1000

Offers = Callable[[str], Collection[str] | None]
"""The zones that offer an instance type; None when there is no such type."""


@dataclass(slots=True)
class Admission:
    """``next_address`` is the position in the subnet of the newest address: the search for free ones goes on after
    it, so that a freed address is used again as late as possible."""

    region: str
    network: Network
    offers: Offers
    max_instances: int
    boot_delay_s: float
    faults: FaultBook
    next_address: int = 0

    def admit(self, call: LaunchCall, listed: Collection[InstanceRecord], now: float) -> list[InstanceRecord]:
        """Records for the instances that are granted, at least one and at most ``call.count``.

        Raises:
            LaunchRejected, NoCapacity: as EC2 refuses.
        """
        self._check(call)
        living = sum(record.alive for record in listed)
        count = self._grant(call, living)
        addresses = self._allocate(count, {record.private_ip for record in listed})
        return [self._record(call, index, address, now) for index, address in enumerate(addresses)]

    def resume_after(self, address: str) -> None:
        """Sets the newest address, after a restart."""
        offset = int(ipaddress.IPv4Address(address)) - int(self.network.subnet.network_address)
        self.next_address = max(0, offset)

    def _check(self, call: LaunchCall) -> None:
        if not call.token:
            raise LaunchRejected("MissingParameter", "token: empty; give each launch one of its own")
        if not 1 <= call.count <= MAX_LAUNCH:
            raise LaunchRejected("InvalidParameterValue", f"count: {call.count} is not between 1 and {MAX_LAUNCH}")
        if len(call.user_data) > MAX_USER_DATA:
            raise LaunchRejected("InvalidParameterValue", f"user data: over {MAX_USER_DATA} bytes")
        zones = self.offers(call.instance_type)
        if zones is None:
            raise LaunchRejected(
                "InvalidParameterValue", f"instance type: {call.instance_type!r} does not exist in {self.region}"
            )
        if call.zone not in zones:
            raise LaunchRejected(
                "InvalidParameterValue",
                f"zone: {call.instance_type} is not offered in {call.zone!r}, only in {', '.join(zones)}",
            )

    def _grant(self, call: LaunchCall, living: int) -> int:
        fault = self.faults.take(FaultKind.NO_CAPACITY, **_facts(call))
        if fault is not None:
            raise NoCapacity(
                fault.code or "InsufficientInstanceCapacity", f"no {call.instance_type} in {call.zone} (scripted)"
            )
        room = self.max_instances - living
        if room <= 0:
            raise NoCapacity("InsufficientInstanceCapacity", f"all {self.max_instances} instances are in use")
        short = self.faults.take(FaultKind.SHORT_LAUNCH, **_facts(call))
        return min(call.count, room, max(short.count, 1) if short else call.count)

    def _allocate(self, count: int, used: set[str]) -> list[str]:
        base, usable = self.network.subnet.network_address, self.network.subnet.num_addresses - 2
        used = used | {self.network.gateway}
        free: list[str] = []
        position = self.next_address
        for _ in range(usable):
            position = position % usable + 1
            address = str(base + position)
            if address not in used:
                free.append(address)
                if len(free) == count:
                    self.next_address = position
                    return free
        raise NoCapacity(
            "InsufficientFreeAddressesInSubnet", f"{self.network.subnet} has {len(free)} free addresses, not {count}"
        )

    def _record(self, call: LaunchCall, index: int, address: str, now: float) -> InstanceRecord:
        dashed = address.replace(".", "-")
        home = self.region == "us-east-1"
        private_domain = "ec2.internal" if home else f"{self.region}.compute.internal"
        public_domain = "compute-1.amazonaws.com" if home else f"{self.region}.compute.amazonaws.com"
        delay = self.faults.take(FaultKind.BOOT_DELAY, **_facts(call))
        return InstanceRecord(
            id=f"i-0{secrets.token_hex(8)}",
            token=call.token,
            launch_index=index,
            instance_type=call.instance_type,
            zone=call.zone,
            spot=call.spot,
            private_ip=address,
            private_dns=f"ip-{dashed}.{private_domain}",
            public_ip="" if call.private_ip_only else address,
            public_dns="" if call.private_ip_only else f"ec2-{dashed}.{public_domain}",
            launched_at=now,
            changed_at=now,
            ready_at=now + self.boot_delay_s + (delay.seconds if delay else 0.0),
            hang=self.faults.take(FaultKind.BOOT_HANG, **_facts(call)) is not None,
            tags=dict(call.tags),
        )


def fingerprint(call: LaunchCall) -> str:
    """Hash of everything that a launch asks for."""
    asked = asdict(call) | {"user_data": hashlib.sha256(call.user_data).hexdigest()}
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def _facts(call: LaunchCall) -> dict[str, str | bool]:
    return {"instance_type": call.instance_type, "zone": call.zone, "spot": call.spot}
