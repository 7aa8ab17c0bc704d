"""The instance metadata service of the bench: one server that tells instances apart by their addresses, as EC2's does.

Instances reach it at its own link-local address; only what comes from the bench's bridge is led there.
"""

import json
import subprocess
import threading
from datetime import UTC, datetime, timedelta

from cloud.local.records import InstanceRecord
from tests.nodeagent.metadata_server import MetadataServer

ADDRESS = "169.254.169.254"
_TOOL_TIMEOUT_S = 20.0


class InstanceMetadata(MetadataServer):
    """``start()``, ``add`` instances, ``stop()``. ``bridge`` is where the instances are."""

    def __init__(self, bridge: str) -> None:
        super().__init__()
        self._bridge, self._table = bridge, f"milpa_{bridge}_metadata"
        self._by_address: dict[str, dict[str, bytes]] = {}

    def start(self) -> None:
        """Serves, and leads the instances here."""
        threading.Thread(target=self.serve_forever, args=(0.05,), name="metadata", daemon=True).start()
        rule = f'iifname "{self._bridge}" ip daddr {ADDRESS} tcp dport 80 dnat to 127.0.0.1:{self.server_address[1]}'
        _nft(f"""
table ip {self._table} {{
    chain prerouting {{
        type nat hook prerouting priority dstnat; policy accept;
        {rule}
    }}
}}
""")

    def stop(self) -> None:
        _nft(f"add table ip {self._table}\ndelete table ip {self._table}\n")
        self.shutdown()
        self.server_close()

    def add(self, record: InstanceRecord, user_data: bytes) -> None:
        """What an instance may learn of itself."""
        self._by_address[record.private_ip] = {
            "user-data": user_data,
            "meta-data/instance-id": record.id.encode(),
            "meta-data/instance-type": record.instance_type.encode(),
            "meta-data/instance-life-cycle": b"spot" if record.spot else b"on-demand",
            "meta-data/local-ipv4": record.private_ip.encode(),
            "meta-data/placement/availability-zone": record.zone.encode(),
        }

    def remove(self, address: str) -> None:
        self._by_address.pop(address, None)

    def give_notice(self, address: str, seconds: float) -> None:
        """The notice that a spot instance is terminated in so many seconds."""
        at = datetime.now(UTC) + timedelta(seconds=seconds)
        notice = {"action": "terminate", "time": at.strftime("%Y-%m-%dT%H:%M:%SZ")}
        self._by_address[address]["meta-data/spot/instance-action"] = json.dumps(notice).encode()

    def answers_for(self, address: str) -> dict[str, bytes]:
        return self._by_address.get(address, {})


def _nft(rules: str) -> None:
    subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True, capture_output=True, timeout=_TOOL_TIMEOUT_S)
