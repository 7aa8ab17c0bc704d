"""Back-offs stay within their bounds; the agenda forgets nothing, repeats nothing and starves nobody."""

import asyncio
import random

from milpa_ray.controller.pacing import Agenda, Backoff


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


async def test_a_name_that_comes_again_and_again_starves_no_other() -> None:
    agenda = Agenda()
    for name in ("a", "b", "c"):
        agenda.add(name)
    taken = []
    for _ in range(4):
        taken += await agenda.take(1)
        agenda.add("a")
    assert taken == ["a", "b", "c", "a"]


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
