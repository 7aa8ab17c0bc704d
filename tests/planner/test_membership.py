"""The map: who serves what."""

from hypothesis import given
from hypothesis import strategies as st

from milpa_ray.keys import SLOTS
from milpa_ray.planner.membership import MOST_SHARES, ShardMap, plan_map

Members = dict[str, str]
members = st.dictionaries(st.sampled_from([f"s{i}" for i in range(7)]), st.uuids().map(str), max_size=7)


def grown(history: list[Members]) -> ShardMap:
    """The map after the members were these, one after another."""
    found = ShardMap()
    for alive in history:
        found = plan_map(found, "c", alive)
    return found


@given(st.lists(members, min_size=1, max_size=5))
def test_ranges_cover_all_slots_once_and_none_is_far_above_its_share(history: list[Members]) -> None:
    shards = grown(history).shards
    assert {e.id: e.incarnation for e in shards} == history[-1]
    edges = [edge for e in shards for edge in (e.low, e.high)]
    if shards:
        assert (edges[0], edges[-1]) == (0, SLOTS)
        assert edges[1:-1:2] == edges[2::2]
        assert max(e.high - e.low for e in shards) <= MOST_SHARES * SLOTS / len(shards)
        assert min(e.high - e.low for e in shards) > 0


@given(st.lists(members, min_size=1, max_size=5))
def test_the_same_members_change_nothing(history: list[Members]) -> None:
    old = grown(history)
    assert plan_map(old, "c", history[-1]) == old


@given(members.filter(bool))
def test_a_restarted_shard_takes_its_old_range(before: Members) -> None:
    old = plan_map(ShardMap(), "c", before)
    name = sorted(before)[0]
    new = plan_map(old, "c", before | {name: "fresh"})
    assert [(e.id, e.low, e.high) for e in new.shards] == [(e.id, e.low, e.high) for e in old.shards]
    assert new.entry(name, "fresh") is not None
    assert new.entry(name, before[name]) is None


@given(members.filter(lambda found: len(found) > 1), st.data())
def test_who_leaves_is_followed_by_its_neighbours_and_nobody_else_moves(before: Members, data: st.DataObject) -> None:
    old = plan_map(ShardMap(), "c", before)
    gone = data.draw(st.sampled_from(old.shards))
    new = plan_map(old, "c", {id_: i for id_, i in before.items() if id_ != gone.id})
    for entry in old.shards:
        if entry is gone:
            continue
        after = new.entry(entry.id, entry.incarnation)
        assert after is not None
        assert after.low <= entry.low
        assert entry.high <= after.high
        if gone.low not in (entry.low, entry.high) and gone.high not in (entry.low, entry.high):
            assert (after.low, after.high) == (entry.low, entry.high)


@given(members.filter(lambda found: len(found) > 1), st.data())
def test_who_comes_back_after_all_finds_the_map_as_it_was(before: Members, data: st.DataObject) -> None:
    gone = data.draw(st.sampled_from(sorted(before)))
    without = {id_: i for id_, i in before.items() if id_ != gone}
    assert grown([before, without, before]).shards == grown([before]).shards


@given(st.lists(members, min_size=1, max_size=5))
def test_ranges_are_equal_once_someone_has_joined(history: list[Members]) -> None:
    new = plan_map(grown(history), "c", history[-1] | {"t": "fresh"})
    sizes = {e.high - e.low for e in new.shards}
    assert max(sizes) - min(sizes) <= 1
    assert [e.id for e in new.shards] == sorted(e.id for e in new.shards)


@given(members, members)
def test_every_rewrite_is_counted(before: Members, after: Members) -> None:
    old = grown([before])
    new = plan_map(old, "c", after)
    assert new.version == old.version + (new.shards != old.shards)


@given(members)
def test_it_survives_the_store(before: Members) -> None:
    plan = plan_map(ShardMap(term=3), "c", before)
    assert ShardMap.from_json(plan.to_json()) == plan


def test_a_map_without_a_version_is_read() -> None:
    assert ShardMap.from_json(b'{"term": 2, "coordinator": "c", "shards": []}') == ShardMap(2, "c")
