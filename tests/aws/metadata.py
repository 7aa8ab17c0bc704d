"""The instance metadata service of the bench: one server that tells instances apart by their addresses, as EC2's does.

The bench's network leads the instances here from the link-local address.
"""

import json
import threading
from datetime import UTC, datetime, timedelta

from cloud.local.records import InstanceRecord
from tests.nodeagent.metadata_server import MetadataServer


class InstanceMetadata(MetadataServer):
    """``start()``, ``add`` instances, ``stop()``."""

    def __init__(self) -> None:
        super().__init__()
        self._by_address: dict[str, dict[str, bytes]] = {}

    @property
    def port(self) -> int:
        """Where it listens on the loopback."""
        return int(self.server_address[1])

    def start(self) -> None:
        threading.Thread(target=self.serve_forever, args=(0.05,), name="metadata", daemon=True).start()

    def stop(self) -> None:
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
