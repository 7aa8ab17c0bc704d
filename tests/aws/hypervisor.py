"""Plays the machines behind the API: watches moto like a hypervisor, boots what runs there, ends what was terminated.

For each instance that moto lists as running it boots an instance of the local cloud: namespaces of its own with the
private address that moto gave it, and in it the real node agent, which fetches the instance's own user data from the
metadata service. Asks moto itself, never through the proxy, so that scripted faults don't reach it and its calls don't
count. It runs in a thread of the test's process.
"""

import asyncio
import base64
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

from cloud.local import machine, sweep
from cloud.local.boot import BOOTS_AT_A_TIME, AgentSettings, Booter
from cloud.local.leftovers import control_group, remove_control_groups
from cloud.local.network import Network
from cloud.local.records import InstanceRecord, LaunchRecord, Records
from milpa_ray.ports import AGENT_PORT, InstanceState
from nodeagent.interruption import DISABLED_VARIABLE
from tests.aws.account import Account, client
from tests.aws.metadata import InstanceMetadata

POLL_S = 0.3
KILL_TIMEOUT_S = 10.0
PAGE = 1000
BOOT_AS_THE_IMAGE_DOES = f"""
unset {DISABLED_VARIABLE}
"$0" -m nodeagent.fetch_user_data --wait-s 20 fetched-user-data
exec "$0" -m nodeagent "$@" --user-data fetched-user-data
"""
"""The two commands of the node image's unit. The options that the local cloud's booter appends come before."""


@dataclass(slots=True)
class _Life:
    """One instance. ``gone`` is set when moto runs it no more; ``task`` boots it, waits for that, and clears up."""

    record: InstanceRecord
    gone: asyncio.Event
    task: "asyncio.Task[None]"


class Hypervisor:
    """``start()``, use, ``stop()``. Needs root. ``errors`` tells boots that failed."""

    def __init__(self, url: str, account: Account, directory: Path, network: Network) -> None:
        self._ec2 = client("ec2", url)
        self._vpc, self._network, self._directory = account.vpc, network, directory
        self._records = Records(directory)
        self._pool = ThreadPoolExecutor(BOOTS_AT_A_TIME + 4, "instance")
        self._lives: dict[str, _Life] = {}
        self._thread = threading.Thread(target=self._run, name="hypervisor")
        self._ending = threading.Event()
        self.metadata = InstanceMetadata(network.bridge)
        self.errors: list[str] = []

    def start(self) -> "Hypervisor":
        self._records.make_directories()
        self._network.up()
        self.metadata.start()
        self._thread.start()
        return self

    def stop(self) -> list[str]:
        """Ends all instances and removes everything of them; returns what could not be removed."""
        self._ending.set()
        self._thread.join()
        self._pool.shutdown()
        self.metadata.stop()
        sweep.remove_all(self._directory, self._network)
        return sweep.leftovers(self._directory, self._network)

    def living(self) -> list[InstanceRecord]:
        """The instances that are booted or booting."""
        return [life.record for life in list(self._lives.values())]

    def directory_of(self, instance_id: str) -> Path:
        """Files of an instance; ``console.log`` has what its init and agent printed."""
        return self._records.instance_dir(instance_id)

    def interrupt(self, instance_id: str, notice_s: float = 120.0) -> None:
        """Takes a spot instance back: the notice now, the termination in ``notice_s`` seconds."""
        record = self._lives[instance_id].record
        self.metadata.give_notice(record.private_ip, notice_s)
        timer = threading.Timer(notice_s, lambda: self._ec2.terminate_instances(InstanceIds=[instance_id]))
        timer.daemon = True
        timer.start()

    # ------------------------------------------------------------ the watch

    def _run(self) -> None:
        asyncio.run(self._watch())

    async def _watch(self) -> None:
        settings = AgentSettings(("/bin/sh", "-ec", BOOT_AS_THE_IMAGE_DOES, sys.executable), port=AGENT_PORT)
        booter = Booter(self._records, self._network, settings, self._pool)
        while not self._ending.is_set():
            began = time.monotonic()
            running = {found["InstanceId"]: found for found in await asyncio.to_thread(self._running)}
            for instance_id in running.keys() - self._lives.keys():
                self._begin(booter, running[instance_id])
            for instance_id in self._lives.keys() - running.keys():
                self._lives[instance_id].gone.set()
            # Listing hundreds costs moto a good part of a second; it gets most of the time for others.
            await asyncio.to_thread(self._ending.wait, max(POLL_S, 3 * (time.monotonic() - began)))
        for life in self._lives.values():
            life.gone.set()
        await asyncio.gather(*[life.task for life in self._lives.values()])
        booter.close()

    def _running(self) -> list[dict[str, Any]]:
        pages = self._ec2.get_paginator("describe_instances").paginate(
            Filters=[{"Name": "instance-state-name", "Values": ["running"]}, {"Name": "vpc-id", "Values": [self._vpc]}],
            PaginationConfig={"PageSize": PAGE},
        )
        return [found for page in pages for group in page["Reservations"] for found in group["Instances"]]

    def _begin(self, booter: Booter, found: dict[str, Any]) -> None:
        record = record_of(found)
        gone = asyncio.Event()
        task = asyncio.get_running_loop().create_task(self._live(booter, record, gone))
        self._lives[record.id] = _Life(record, gone, task)

    async def _live(self, booter: Booter, record: InstanceRecord, gone: asyncio.Event) -> None:
        process: subprocess.Popen[bytes] | None = None
        try:
            user_data = await asyncio.to_thread(self._user_data, record.id)
            self._records.add_instance(record, b"")
            self._records.save_launch(LaunchRecord(record.token, "", [record.id]))
            self.metadata.add(record, user_data)
            process = await booter.boot(record, lambda: not gone.is_set())
        except Exception as error:
            self.errors.append(f"{record.id}: {error!r}")
        await gone.wait()
        record.move_to(InstanceState.SHUTTING_DOWN, time.time())
        await asyncio.get_running_loop().run_in_executor(self._pool, self._clear, record)
        if process is not None:
            await asyncio.to_thread(process.wait, KILL_TIMEOUT_S)
        self.metadata.remove(record.private_ip)
        del self._lives[record.id]

    def _user_data(self, instance_id: str) -> bytes:
        told = self._ec2.describe_instance_attribute(InstanceId=instance_id, Attribute="userData")
        return base64.b64decode(told["UserData"].get("Value", ""))

    def _clear(self, record: InstanceRecord) -> None:
        machine.kill_and_wait(record.pid, record.start_time, KILL_TIMEOUT_S)
        remove_control_groups(control_group(self._network.bridge, record.id))
        self._network.disconnect(record.id)
        self._records.strip_instance(record.id)
        record.move_to(InstanceState.TERMINATED, time.time())
        self._records.save_instance(record)


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
