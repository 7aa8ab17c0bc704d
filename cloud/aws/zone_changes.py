"""How a Route53 zone's records get from what they are to what they should be, in as few requests as its limits allow.

Pure functions over ``DnsRecord`` and boto3's record sets; nothing is sent from here.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from milpa_ray.ports import DnsRecord

TYPES = frozenset({"A", "SRV"})
"""Types of the records that are ours; others in the zone are somebody else's."""
MAX_VALUES = 400
"""Values of one record set."""
BATCH_VALUES = 1000
BATCH_CHARACTERS = 32_000
"""Values of one request, and the characters in them; those of an upsert count twice."""

DELETE, UPSERT = "DELETE", "UPSERT"
RecordSet = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Change:
    """``action`` is DELETE or UPSERT; a delete names the record exactly as it is."""

    action: str
    record_set: RecordSet

    @property
    def values(self) -> int:
        return self._weight * max(1, len(self.record_set.get("ResourceRecords", ())))

    @property
    def characters(self) -> int:
        return self._weight * sum(len(record["Value"]) for record in self.record_set.get("ResourceRecords", ()))

    @property
    def _weight(self) -> int:
        return 2 if self.action == UPSERT else 1


def changes(wanted: Iterable[DnsRecord], actual: Iterable[DnsRecord], zone: str) -> list[Change]:
    """What makes ``actual`` the ``wanted`` records, in the order of names. ``zone`` is the zone's name."""
    there = {(record.name, record.type): record for record in actual}
    goal = {(record.name, record.type): record for record in wanted}
    found = [(key, Change(DELETE, to_record_set(there[key], zone))) for key in there.keys() - goal.keys()]
    found += [(key, Change(UPSERT, to_record_set(goal[key], zone))) for key in goal if goal[key] != there.get(key)]
    return [change for _, change in sorted(found, key=lambda item: item[0])]


def batches(found: Iterable[Change]) -> Iterator[list[Change]]:
    """The changes in requests that Route53 takes, none of them empty."""
    batch: list[Change] = []
    values = characters = 0
    for change in found:
        if batch and (values + change.values > BATCH_VALUES or characters + change.characters > BATCH_CHARACTERS):
            yield batch
            batch, values, characters = [], 0, 0
        batch.append(change)
        values += change.values
        characters += change.characters
    if batch:
        yield batch


def normal(record: DnsRecord) -> DnsRecord:
    """As Route53 gives it back: lower case, and each value once; in an order of ours, at most ``MAX_VALUES``."""
    values = tuple(sorted(set(record.values))[:MAX_VALUES])
    return DnsRecord(record.name.lower(), record.type, values, record.ttl_s)


def to_record_set(record: DnsRecord, zone: str) -> dict[str, Any]:
    return {
        "Name": f"{record.name}.{zone}.",
        "Type": record.type,
        "TTL": record.ttl_s,
        "ResourceRecords": [{"Value": value} for value in record.values],
    }


def from_record_set(found: RecordSet, zone: str) -> DnsRecord | None:
    """Our record; None for one of another kind."""
    name = str(found["Name"]).removesuffix(".")
    if (
        found["Type"] not in TYPES
        or "SetIdentifier" in found
        or "AliasTarget" in found
        or not name.endswith(f".{zone}")
    ):
        return None
    values = tuple(sorted(record["Value"] for record in found.get("ResourceRecords", ())))
    return DnsRecord(name.removesuffix(f".{zone}"), found["Type"], values, int(found.get("TTL", 0)))
