"""Equal requests are spread evenly over zones, whatever was there before."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from milpa_ray.planner.balance import balance, emptiest

ZONES = ("a", "b", "c")


@given(st.integers(0, 40), st.dictionaries(st.sampled_from((*ZONES, "other")), st.integers(0, 20)))
def test_zones_end_up_as_equal_as_those_present_allow(count: int, present: dict[str, int]) -> None:
    added = Counter(balance(ZONES, present, count))
    assert added.total() == count
    assert set(added) <= set(ZONES)
    after = {zone: present.get(zone, 0) + added[zone] for zone in ZONES}
    for zone in added:  # A zone that got one has at most one more than any other.
        assert after[zone] <= min(after.values()) + 1


def test_without_zones_none_is_chosen() -> None:
    assert balance((), {"a": 1}, 3) == []


def test_names_spread_over_empty_zones_and_always_get_the_same() -> None:
    chosen = [emptiest(ZONES, {}, f"pod-{number}") for number in range(300)]
    assert chosen == [emptiest(ZONES, {}, f"pod-{number}") for number in range(300)]
    assert all(count > 60 for count in Counter(chosen).values())
    assert set(chosen) == set(ZONES)
