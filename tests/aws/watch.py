"""Watches moto like a hypervisor: tells a subclass of each instance that runs, and when it was terminated.

Asks moto itself, never through the proxy, so that scripted faults don't reach it and its calls don't count. It runs in
a thread of the test's process.
"""

import asyncio
import base64
import threading
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

from cloud.local import sweep
from cloud.local.network import Network
from cloud.local.records import InstanceRecord, LaunchRecord, Records
from tests.aws.account import Account, client

POLL_S = 0.3
PAGE = 1000


@dataclass(slots=True)
class _Life:
    """One instance. ``gone`` is set when moto runs it no more; ``task`` is its whole life here."""

    record: InstanceRecord
    gone: asyncio.Event
    task: "asyncio.Task[None]"


class Watch(ABC):
    """``start()``, use, ``stop()``. Needs root. ``errors`` tells what went wrong with instances. All that it makes is
    below ``directory`` and on ``network``."""

    def __init__(self, url: str, account: Account, directory: Path, network: Network) -> None:
        self.directory, self.network = directory, network
        self.records = Records(directory)
        self.errors: list[str] = []
        self._ec2, self._vpc = client("ec2", url), account.vpc
        self._lives: dict[str, _Life] = {}
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._watch()), name="watch")
        self._ready, self._ending = threading.Event(), threading.Event()

    def start(self) -> None:
        """Returns once it watches."""
        self.records.make_directories()
        self.network.up()
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            raise self._failure

    def stop(self) -> list[str]:
        """Ends all instances and removes everything of them; returns what could not be removed."""
        self._ending.set()
        if self._thread.ident is not None:  # it did start
            self._thread.join()
        sweep.remove_all(self.directory, self.network)
        return sweep.leftovers(self.directory, self.network)

    def living(self) -> list[InstanceRecord]:
        """The instances that run here, or are about to."""
        return [life.record for life in list(self._lives.values())]

    def record(self, instance_id: str) -> InstanceRecord:
        """One that lives."""
        return self._lives[instance_id].record

    def running(self) -> list[dict[str, Any]]:
        """What moto runs now in the account's VPC."""
        pages = self._ec2.get_paginator("describe_instances").paginate(
            Filters=[{"Name": "instance-state-name", "Values": ["running"]}, {"Name": "vpc-id", "Values": [self._vpc]}],
            PaginationConfig={"PageSize": PAGE},
        )
        return [found for page in pages for group in page["Reservations"] for found in group["Instances"]]

    def launched(self) -> list[dict[str, Any]]:
        """All that moto ever launched, terminated ones, too."""
        pages = self._ec2.get_paginator("describe_instances").paginate(PaginationConfig={"PageSize": PAGE})
        return [one for page in pages for group in page["Reservations"] for one in group["Instances"]]

    def user_data(self, instance_id: str) -> bytes:
        """What an instance was launched with."""
        told = self._ec2.describe_instance_attribute(InstanceId=instance_id, Attribute="userData")
        return base64.b64decode(told["UserData"].get("Value", ""))

    def terminate(self, instance_id: str) -> None:
        """Ends an instance as EC2 itself does."""
        self._ec2.terminate_instances(InstanceIds=[instance_id])

    # ------------------------------------------------------------ for subclasses

    async def open(self) -> None:  # noqa: B027
        """Called once, before anything is watched."""

    async def close(self) -> None:  # noqa: B027
        """Called once, after the last life."""

    @abstractmethod
    async def live(self, record: InstanceRecord, gone: asyncio.Event) -> None:
        """The whole life of an instance: boots it, waits until it is ``gone``, ends it."""

    # ------------------------------------------------------------ inside

    async def _watch(self) -> None:
        try:
            await self.open()
        except Exception as error:
            self._failure = error
            return
        finally:
            self._ready.set()
        before: set[str] = set()
        while not self._ending.is_set():
            began = time.monotonic()
            running = {found["InstanceId"]: found for found in await asyncio.to_thread(self.running)}
            # At first sight moto may still be making it: that it is a spot instance is among the last that it notes.
            for instance_id in (running.keys() & before) - self._lives.keys():
                self._begin(record_of(running[instance_id]))
            before = set(running)
            for instance_id in self._lives.keys() - running.keys():
                self._lives[instance_id].gone.set()
            # Listing hundreds costs moto a good part of a second; most of the time is left to others.
            await asyncio.to_thread(self._ending.wait, max(POLL_S, 3 * (time.monotonic() - began)))
        for life in self._lives.values():
            life.gone.set()
        await asyncio.gather(*[life.task for life in self._lives.values()])
        await self.close()

    def _begin(self, record: InstanceRecord) -> None:
        gone = asyncio.Event()
        task = asyncio.get_running_loop().create_task(self._live(record, gone))
        self._lives[record.id] = _Life(record, gone, task)

    async def _live(self, record: InstanceRecord, gone: asyncio.Event) -> None:
        try:
            await self.live(record, gone)
        except Exception as error:
            self.errors.append(f"{record.id}: {error!r}")
            await gone.wait()
        finally:
            del self._lives[record.id]

    def add_record(self, record: InstanceRecord) -> None:
        """Puts it on disk, where a sweep finds it."""
        self.records.add_instance(record, b"")
        self.records.save_launch(LaunchRecord(record.token, "", [record.id]))


def record_of(found: dict[str, Any]) -> InstanceRecord:
    """The local instance for one as DescribeInstances tells it. Its id is its token: moto has launched it already."""
    return InstanceRecord(
        id=found["InstanceId"],
        token=found["InstanceId"],
        launch_index=found["AmiLaunchIndex"],
        instance_type=found["InstanceType"],
        zone=found["Placement"]["AvailabilityZone"],
        spot=found.get("InstanceLifecycle") == "spot",
        private_ip=found["PrivateIpAddress"],
        private_dns=found["PrivateDnsName"],
        public_ip=found.get("PublicIpAddress", ""),
        public_dns=found.get("PublicDnsName", ""),
        launched_at=found["LaunchTime"].timestamp(),
        tags={tag["Key"]: tag["Value"] for tag in found.get("Tags", [])},
    )


def bench_network(bridge: str, subnet: IPv4Network, directory: Path, registry_port: int) -> Network:
    """The bridge that the instances' cards are on; they reach the test's registry at its address."""
    return Network(bridge, subnet, str(directory), (registry_port,), host_ports=())
