"""The way from the records of a zone to those that should be there."""

from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from cloud.aws.zone_changes import (
    BATCH_CHARACTERS,
    BATCH_VALUES,
    DELETE,
    MAX_VALUES,
    Change,
    batches,
    changes,
    from_record_set,
    normal,
    to_record_set,
)
from milpa_ray.ports import DnsRecord

ZONE = "demo.local"

addresses = st.lists(st.sampled_from(["10.0.0.1", "10.0.0.2", "10.0.0.3"]), min_size=1, unique=True)
records = st.builds(
    lambda name, kind, values, ttl: DnsRecord(name, kind, tuple(sorted(values)), ttl),
    st.sampled_from(["web.default", "db.default", "_http._tcp.web.default"]),
    st.sampled_from(["A", "SRV"]),
    addresses,
    st.sampled_from([30, 60]),
)
zones = st.lists(records, unique_by=lambda record: (record.name, record.type))


class Zone:
    """Does what Route53 does with changes."""

    def __init__(self, found: Iterable[DnsRecord]) -> None:
        self.sets = {(r.name, r.type): to_record_set(r, ZONE) for r in found}

    def apply(self, change: Change) -> None:
        found = from_record_set(change.record_set, ZONE)
        assert found is not None
        key = found.name, found.type
        if change.action == DELETE:
            assert self.sets.pop(key) == change.record_set, "a delete must name the record as it is"
        else:
            self.sets[key] = dict(change.record_set)

    def records(self) -> set[DnsRecord]:
        return {r for found in self.sets.values() if (r := from_record_set(found, ZONE)) is not None}


@given(wanted=zones, actual=zones)
def test_the_changes_lead_to_the_wanted_records_and_touch_nothing_that_stays(
    wanted: list[DnsRecord], actual: list[DnsRecord]
) -> None:
    zone = Zone(actual)
    found = changes(wanted, actual, ZONE)
    for change in found:
        record = from_record_set(change.record_set, ZONE)
        assert not (record in wanted and record in actual)
        zone.apply(change)
    assert zone.records() == set(wanted)


@given(sizes=st.lists(st.integers(1, MAX_VALUES), max_size=30), gone=st.integers(0, 30))
def test_no_request_exceeds_the_limits_and_the_order_stays(sizes: list[int], gone: int) -> None:
    wanted = [
        DnsRecord(f"s{i}.default", "SRV", tuple(f"1 1 ip-10-0-{n % 256}-{i}.ec2.internal {n}" for n in range(size)), 30)
        for i, size in enumerate(sizes)
    ]
    actual = [DnsRecord(f"x{i}.default", "A", ("10.0.0.1",), 30) for i in range(gone)]
    found = changes(wanted, actual, ZONE)
    made = list(batches(found))
    assert [change for batch in made for change in batch] == found
    for batch in made:
        assert batch
        weights = [1 if change.action == DELETE else 2 for change in batch]
        values = [len(change.record_set["ResourceRecords"]) for change in batch]
        texts = [sum(len(r["Value"]) for r in change.record_set["ResourceRecords"]) for change in batch]
        assert sum(w * v for w, v in zip(weights, values, strict=True)) <= BATCH_VALUES
        assert sum(w * t for w, t in zip(weights, texts, strict=True)) <= BATCH_CHARACTERS


def test_few_changes_are_one_request() -> None:
    wanted = [DnsRecord(f"s{i}.default", "A", ("10.0.0.1",), 30) for i in range(BATCH_VALUES // 2)]
    assert [len(batch) for batch in batches(changes(wanted, [], ZONE))] == [BATCH_VALUES // 2]


def test_a_record_is_told_as_route53_gives_it_back() -> None:
    values = tuple(f"10.0.{i // 256}.{i % 256}" for i in range(MAX_VALUES + 50))
    found = normal(DnsRecord("Web.default", "A", (*values, values[0]), 30))
    assert found.name == "web.default"
    assert len(found.values) == MAX_VALUES
    assert found == from_record_set(to_record_set(found, ZONE), ZONE)


def test_records_of_other_kinds_are_not_ours() -> None:
    record = to_record_set(DnsRecord("web.default", "A", ("10.0.0.1",), 30), ZONE)
    assert from_record_set({**record, "Type": "TXT"}, ZONE) is None
    assert from_record_set({**record, "SetIdentifier": "blue"}, ZONE) is None
    assert from_record_set({**record, "AliasTarget": {}}, ZONE) is None
    assert from_record_set({**record, "Name": "web.elsewhere."}, ZONE) is None
