"""The bounded log that all watches read."""

import asyncio

import pytest

from milpa_ray.errors import WatchExpired
from milpa_ray.server.history import MAX_BATCH, Event, History
from milpa_ray.server.items import Item


def event(revision: int, size: int = 10) -> Event:
    return Event(revision, None, Item("k", "pod", f"p{revision}", b"x" * size, revision))


async def take(history: History, revision: int, count: int) -> list[int]:
    found: list[int] = []
    follower = history.follow(revision, idle_s=5)
    async for batch, _ in follower:
        found += [e.revision for e in batch]
        if len(found) >= count:
            break
    await follower.aclose()  # type: ignore[attr-defined]
    return found


async def test_a_watch_resumes_after_its_revision() -> None:
    history = History()
    history.reset(10)
    history.extend([event(11), event(12), event(12), event(14)], 15)
    assert await take(history, 10, 4) == [11, 12, 12, 14]
    assert await take(history, 11, 3) == [12, 12, 14]
    assert await take(history, 12, 1) == [14]


async def test_what_comes_later_is_told_and_idleness_too() -> None:
    history = History()
    history.reset(1)
    follower = history.follow(1, idle_s=0.01)
    assert await anext(follower) == ((), 1)
    history.extend([], 5)
    history.extend([event(6)], 6)
    batch, revision = await anext(follower)
    assert ([e.revision for e in batch], revision) == ([6], 6)
    waiting = asyncio.create_task(anext(follower))
    await asyncio.sleep(0)
    history.extend([event(9)], 9)
    batch, revision = await waiting
    assert ([e.revision for e in batch], revision) == ([9], 9)


async def test_one_revision_is_never_torn_apart() -> None:
    history = History()
    history.reset(1)
    history.extend([event(2)] * (MAX_BATCH - 1) + [event(3)] * 5 + [event(4)], 4)
    follower = history.follow(1, idle_s=5)
    first, upto = await anext(follower)
    assert (first[-1].revision, upto, len(first)) == (3, 3, MAX_BATCH + 4)
    second, upto = await anext(follower)
    assert ([e.revision for e in second], upto) == ([4], 4)


@pytest.mark.parametrize("history", [History(max_events=100), History(max_bytes=1000)])
async def test_it_is_bounded_and_says_so_to_who_is_too_slow_or_too_old(history: History) -> None:
    history.reset(1)
    slow = history.follow(1, idle_s=5)
    history.extend([event(2)], 2)
    await anext(slow)
    for revision in range(3, 1000):
        history.extend([event(revision)], revision)
    assert history.floor > 800
    with pytest.raises(WatchExpired, match="too slow"):
        await anext(slow)
    with pytest.raises(WatchExpired, match="too old"):
        await anext(history.follow(history.floor - 1, idle_s=5))
    assert await take(history, history.floor, 1) == list(range(history.floor + 1, 1000))


async def test_a_reset_ends_all_watches() -> None:
    history = History()
    history.reset(50)
    old = history.follow(50, idle_s=0.01)
    await anext(old)
    history.reset(7)
    with pytest.raises(WatchExpired):
        await anext(old)
    assert await anext(history.follow(7, idle_s=0.01)) == ((), 7)
