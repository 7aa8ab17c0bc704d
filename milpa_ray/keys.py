"""Where each thing lives in the store. The one place that builds and reads keys.

    /milpa/<cluster>/o/<slot>/<kind>/<name>   pods and nodes: kind "pod" or "node", slot 0000 to 1023
    /milpa/<cluster>/<kind>/<name>            other API kinds, lower case
    /milpa/<cluster>/<record>                 map, leader, uuid, sync, pki/ca, batch/<token>, member/<id>, capacity/<id>

A pod's slot is a hash of its name; a node's is its pod's. The slot is read from the key, never derived for a node.
"""

import hashlib
from dataclasses import dataclass

SLOTS = 1024
SLOTTED = frozenset({"Pod", "Node"})


def slot_of(name: str) -> int:
    """Slot of a pod (or of an idle standby node) by its name: stable over processes and versions."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") % SLOTS


@dataclass(frozen=True, slots=True)
class ObjectKey:
    """A parsed key of an API object. ``slot`` is -1 for kinds without slots; ``kind`` is lower case."""

    kind: str
    name: str
    slot: int = -1


@dataclass(frozen=True, slots=True)
class Keys:
    """All keys of one cluster."""

    cluster: str

    @property
    def root(self) -> str:
        return f"/milpa/{self.cluster}/"

    @property
    def map(self) -> str:
        return f"{self.root}map"

    @property
    def leader(self) -> str:
        return f"{self.root}leader"

    @property
    def uuid(self) -> str:
        return f"{self.root}uuid"

    @property
    def sync(self) -> str:
        """Written, always empty, by whoever needs a watch of the root to tell how far it is."""
        return f"{self.root}sync"

    @property
    def ca(self) -> str:
        """The cluster's certificate authority."""
        return f"{self.root}pki/ca"

    @property
    def objects(self) -> str:
        """Prefix of all slotted objects."""
        return f"{self.root}o/"

    def object(self, slot: int, kind: str, name: str) -> str:
        return f"{self.root}o/{slot:04d}/{kind.lower()}/{name}"

    def pod(self, name: str) -> str:
        return self.object(slot_of(name), "pod", name)

    def node(self, slot: int, name: str) -> str:
        return self.object(slot, "node", name)

    def other(self, kind: str, name: str) -> str:
        """Key of an object of a kind without slots."""
        return f"{self.root}{kind.lower()}/{name}"

    def prefix(self, kind: str) -> str:
        """Prefix of a kind without slots, or of a family of records (``batch``, ``member``, ``capacity``, ``pki``)."""
        return f"{self.root}{kind.lower()}/"

    def slots(self, low: int, high: int) -> tuple[str, str]:
        """Key range of the slots ``low`` to ``high`` - 1."""
        return f"{self.root}o/{low:04d}/", f"{self.root}o/{high:04d}/" if high < 10000 else prefix_end(self.objects)

    def parse(self, key: str) -> ObjectKey | None:
        """The API object that ``key`` names, or None when it is a record of ours."""
        if not key.startswith(self.root):
            return None
        parts = key[len(self.root) :].split("/")
        if len(parts) == 4 and parts[0] == "o":
            return ObjectKey(parts[2], parts[3], int(parts[1]))
        if len(parts) == 2:
            return ObjectKey(parts[0], parts[1])
        return None


def prefix_end(prefix: str) -> str:
    """First key after all keys that start with ``prefix``."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)
