"""Back-offs stay within their bounds; the agenda forgets nothing, repeats nothing and starves nobody."""

import asyncio
import random
from itertools import count

from hypothesis import given
from hypothesis import strategies as st

from milpa_ray.controller.pacing import OTHERS_SHARE, Agenda, Backoff


def test_back_offs_grow_to_their_bound_and_begin_anew() -> None:
    backoff = Backoff(random.Random(1), 0.2, 5.0)
    delays = [backoff.next_s() for _ in range(40)]
    for n, delay in enumerate(delays):
        whole = min(5.0, 0.2 * 2.0**n)
        assert whole / 2 <= delay <= whole
    backoff.reset()
    assert backoff.next_s() <= 0.2


async def test_names_come_once_in_the_order_of_their_arrival() -> None:
    agenda = Agenda()
    for name in ("b", "a", "b", "c"):
        agenda.add(name)
    assert len(agenda) == 3
    assert await agenda.take(2) == ["b", "a"]
    agenda.add("a")
    assert await agenda.take(2) == ["c", "a"]
    assert len(agenda) == 0


async def test_names_ahead_come_first_and_others_keep_their_share() -> None:
    agenda = Agenda()
    for number in range(20):
        agenda.add(f"new-{number:02}")
        agenda.add(f"begun-{number:02}", ahead=True)
    taken = await agenda.take(8)
    assert taken == [f"begun-{n:02}" for n in range(6)] + ["new-00", "new-01"]
    taken = await agenda.take(24)
    assert taken == [f"begun-{n:02}" for n in range(6, 20)] + [f"new-{n:02}" for n in range(2, 12)]


async def test_a_name_that_waits_moves_ahead_and_never_back() -> None:
    agenda = Agenda()
    for name in ("a", "b", "c"):
        agenda.add(name)
    agenda.add("c", ahead=True)
    agenda.add("c")
    assert await agenda.take(8) == ["c", "a", "b"]


async def test_a_name_waits_no_longer_than_the_others_share_asks() -> None:
    # However much comes in ahead of it, the n-th of the others has its turn within n / (limit / OTHERS_SHARE) takes.
    agenda, limit, fresh = Agenda(), 8, count()
    waiting = [f"other-{number}" for number in range(10)]
    for name in waiting:
        agenda.add(name)
    for _ in range(len(waiting) * OTHERS_SHARE // limit):
        for _ in range(limit * 2):
            agenda.add(f"ahead-{next(fresh)}", ahead=True)
        taken = await agenda.take(limit)
        waiting = [name for name in waiting if name not in taken]
    assert waiting == []


@given(st.lists(st.tuples(st.integers(0, 8), st.booleans())), st.integers(OTHERS_SHARE, 12))
def test_all_that_was_added_is_taken_exactly_once(added: list[tuple[int, bool]], limit: int) -> None:
    async def steps() -> list[str]:
        agenda, taken = Agenda(), []
        for number, ahead in added:
            agenda.add(str(number), ahead=ahead)
        while len(agenda):
            some = await agenda.take(limit)
            assert 0 < len(some) <= limit
            taken += some
        return taken

    assert sorted(asyncio.run(steps())) == sorted({str(number) for number, _ in added})


async def test_what_is_due_later_comes_then_and_the_sooner_time_counts() -> None:
    agenda = Agenda()
    agenda.add_later("a", 30.0)
    agenda.add_later("a", 0.02)
    agenda.add_later("b", 0.01)
    assert len(agenda) == 0
    taken: list[str] = []
    async with asyncio.timeout(10):
        while len(taken) < 2:
            taken += await agenda.take(8)
    assert taken == ["b", "a"]
