"""Plays hundreds of machines at the price of one: a single namespace that answers for every address of the VPC, with
one server of hollow agents in it. The address of an instance that is terminated is put to silence.
"""

import asyncio
import json
import secrets
import subprocess
import sys
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

from cloud.local import machine
from cloud.local.network import Card, Network
from cloud.local.records import InstanceRecord, boot_id
from milpa_ray.pki import CertificateAuthority
from milpa_ray.ports import CONTROLLER_IDENTITY, AgentAddress, node_identity
from nodeagent.client import GrpcDialer
from nodeagent.hollow import STATS
from tests.aws.account import Account
from tests.aws.watch import Watch

START_TIMEOUT_S = 30.0
_TOOL_TIMEOUT_S = 20.0
SERVE = """
ip route add local "$1" dev lo table local
ip route add "$2/32" dev eth0 table local
shift 2
exec "$0" -m nodeagent.hollow "$@"
"""
"""Addresses of the whole range are its own; the way back to the controllers is not."""


class HollowRack(Watch):
    """See ``Watch``. ``authority`` is the CA that the controllers will use."""

    def __init__(
        self, url: str, account: Account, directory: Path, network: Network, authority: CertificateAuthority
    ) -> None:
        super().__init__(url, account, directory, network)
        self._authority = authority
        self._name = f"i-0{secrets.token_hex(8)}"  # cards are named after instances, for the whole machine
        self._address = str(network.subnet.network_address + 2)  # EC2 keeps it for DNS: no instance ever has it
        self._process: subprocess.Popen[bytes] | None = None
        self._pid = 0

    async def stats(self) -> dict[str, Any]:
        """What the hollow agents have counted."""
        pair = self._authority.issue([CONTROLLER_IDENTITY], server=False, client=True)
        agent = GrpcDialer(self._authority.pair.cert, pair.cert, pair.key).dial(
            AgentAddress(self._address, node_identity("any"))
        )
        try:
            return dict(json.loads(b"".join([chunk async for chunk in agent.logs(STATS)])))
        finally:
            await agent.close()

    async def open(self) -> None:
        await asyncio.to_thread(self._open)

    def _open(self) -> None:
        name = self._name
        record = InstanceRecord(name, name, 0, "", "", False, self._address, "", "", "", 0.0, {}, boot_id=boot_id())
        self.add_record(record)
        folder = self.records.instance_dir(name)
        pair = self._authority.issue(["*.node.milpa", "*.boot.milpa"], server=True, client=False)
        for name, data in (("ca.crt", self._authority.pair.cert), ("hollow.crt", pair.cert), ("hollow.key", pair.key)):
            (folder / name).write_bytes(data)
        subnet: IPv4Network = self.network.subnet
        command = ["/bin/sh", "-ec", SERVE, sys.executable, str(subnet), self.network.gateway]
        command += ["--tls", "ca.crt", "hollow.crt", "hollow.key"]
        booting = machine.spawn(
            machine.BootSpec(
                instance_id=name,
                directory=folder,
                address=self.network.with_prefix(self._address),
                gateway=self.network.gateway,
                hostname="rack",
                command=command,
                environment={"MILPA_LOCAL_CLOUD": str(self.directory)},
            )
        )
        record.pid, record.start_time = booting.pid, booting.start_time
        self.records.save_instance(record)
        self.network.connect([Card(name, booting.pid, self._address)])
        booting.release()
        self._process, self._pid = booting.process, booting.pid

    async def close(self) -> None:
        if self._process is not None:
            machine.kill(self._pid, machine.start_time_of(self._pid))
            await asyncio.to_thread(self._process.wait, START_TIMEOUT_S)

    async def live(self, record: InstanceRecord, gone: asyncio.Event) -> None:
        await gone.wait()
        await asyncio.to_thread(self._silence, record.private_ip)

    def _silence(self, address: str) -> None:
        command = ["nsenter", "--target", str(self._pid), "--net", "ip", "route", "add", "blackhole", f"{address}/32"]
        subprocess.run([*command, "table", "local"], check=True, capture_output=True, timeout=_TOOL_TIMEOUT_S)
