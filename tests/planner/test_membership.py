"""The map: who serves what."""

from hypothesis import given
from hypothesis import strategies as st

from milpa_ray.keys import SLOTS
from milpa_ray.planner.membership import ShardMap, plan_map

members = st.dictionaries(st.sampled_from([f"s{i}" for i in range(7)]), st.uuids().map(str), max_size=7)


@given(members, members)
def test_ranges_cover_all_slots_once(before: dict[str, str], after: dict[str, str]) -> None:
    shards = plan_map(plan_map(ShardMap(), "c", before), "c", after).shards
    assert {e.id: e.incarnation for e in shards} == after
    edges = [edge for e in sorted(shards, key=lambda e: e.low) for edge in (e.low, e.high)]
    if shards:
        assert (edges[0], edges[-1]) == (0, SLOTS)
        assert edges[1:-1:2] == edges[2::2]


@given(members.filter(bool))
def test_a_restarted_shard_takes_its_old_range(before: dict[str, str]) -> None:
    old = plan_map(ShardMap(), "c", before)
    name = sorted(before)[0]
    new = plan_map(old, "c", before | {name: "fresh"})
    assert [(e.id, e.low, e.high) for e in new.shards] == [(e.id, e.low, e.high) for e in old.shards]
    assert new.entry(name, "fresh") is not None
    assert new.entry(name, before[name]) is None


@given(members)
def test_it_survives_the_store(before: dict[str, str]) -> None:
    plan = plan_map(ShardMap(term=3), "c", before)
    assert ShardMap.from_json(plan.to_json()) == plan
