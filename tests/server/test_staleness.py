"""Reads of one object: linearizable while the store answers, quick when it stalls, and never blind to own writes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from milpa_ray.errors import StoreUnavailable
from milpa_ray.keys import Keys
from milpa_ray.server import staleness
from milpa_ray.server.cache import WatchCache
from milpa_ray.server.commit_queue import CommitQueue
from milpa_ray.server.peers import KIND, MAX_AGE_S, Peers
from milpa_ray.server.staleness import QuickReads
from milpa_ray.store.group import WriteGroup
from milpa_ray.store.memory import MemoryStore
from milpa_ray.store.port import Put, WatchBatch
from tests.server.serving import new_keys
from tests.server.test_cache import pod, put
from tests.waiting import eventually


class Stalling(MemoryStore):
    """``answers`` cleared: it tells its revision to nobody. ``tells`` cleared: its watches hold changes back."""

    def __init__(self) -> None:
        super().__init__()
        self.answers, self.tells = asyncio.Event(), asyncio.Event()
        self.answers.set()
        self.tells.set()

    async def revision(self) -> int:
        await self.answers.wait()
        return await super().revision()

    async def watch(self, start: str, end: str, revision: int) -> AsyncIterator[WatchBatch]:
        async for batch in super().watch(start, end, revision):
            await self.tells.wait()
            yield batch


@asynccontextmanager
async def reading(store: Stalling, keys: Keys) -> AsyncIterator[tuple[QuickReads, WatchCache, CommitQueue]]:
    """With a pod ``a`` that has been read, so that the cache's age is known."""
    cache = WatchCache(store, keys)
    peers = Peers(store, keys, cache, "me")
    quick = QuickReads(cache, peers)
    queue = CommitQueue(store, peers.entered, quick.acknowledge)
    for part in (cache, peers, quick, queue):
        part.start()
    await peers.entered.wait()
    await put(store, keys.pod("a"), pod("a", n="1"))
    item, _ = await quick.get("pod", "a")
    assert item is not None
    yield quick, cache, queue
    store.answers.set()
    for part in (queue, quick, peers, cache):
        await part.stop()


async def test_a_store_that_answers_is_always_asked() -> None:
    store, keys = Stalling(), new_keys()
    async with reading(store, keys) as (quick, _, _):
        for number in range(10):
            revision = await put(store, keys.pod("a"), pod("a", n=str(number)))
            item, reached = await quick.get("pod", "a")
            assert item is not None
            assert item.revision == revision
            assert reached >= revision


async def test_when_the_store_stalls_the_cache_answers() -> None:
    store, keys = Stalling(), new_keys()
    async with reading(store, keys) as (quick, cache, _):
        store.answers.clear()
        item, revision = await asyncio.wait_for(quick.get("pod", "a"), 5)
        assert item is not None
        assert item.meta.labels == {"n": "1"}
        assert revision == cache.revision


async def test_an_own_write_is_waited_for() -> None:
    store, keys = Stalling(), new_keys()
    async with reading(store, keys) as (quick, _, queue):
        store.tells.clear()
        outcome = await queue.commit(WriteGroup((), (Put(keys.pod("a"), pod("a", n="2")),)))
        store.answers.clear()
        waiting = asyncio.create_task(quick.get("pod", "a"))
        done, _ = await asyncio.wait([waiting], timeout=staleness.PATIENCE_S * 3)
        assert not done, "the cache lacks what this server has acknowledged"
        store.tells.set()
        store.answers.set()
        item, _ = await waiting
        assert item is not None
        assert item.revision == outcome.revision
        store.answers.clear()
        assert (await asyncio.wait_for(quick.get("pod", "a"), 5))[0] is item, "seen by now: no longer waited for"


async def test_what_is_not_there_is_never_said_from_memory() -> None:
    store, keys = Stalling(), new_keys()
    async with reading(store, keys) as (quick, _, _):
        store.answers.clear()
        waiting = asyncio.create_task(quick.get("pod", "b"))
        done, _ = await asyncio.wait([waiting], timeout=staleness.PATIENCE_S * 3)
        assert not done
        store.answers.set()
        assert (await waiting)[0] is None


async def test_a_cache_of_unknown_age_does_not_answer() -> None:
    store, keys = Stalling(), new_keys()
    async with reading(store, keys) as (quick, cache, _):
        store.answers.clear()
        cache.current_at -= MAX_AGE_S
        waiting = asyncio.create_task(quick.get("pod", "a"))
        done, _ = await asyncio.wait([waiting], timeout=staleness.PATIENCE_S * 3)
        assert not done
        waiting.cancel()


async def test_the_age_is_kept_known_while_objects_change() -> None:
    store, keys = Stalling(), new_keys()
    async with reading(store, keys) as (_, cache, _):
        known = cache.current_at
        await put(store, keys.pod("a"), pod("a", n="2"))
        await eventually(lambda: cache.current_at > known)


async def test_a_store_that_is_away_is_said_so() -> None:
    class Away(Stalling):
        async def revision(self) -> int:
            raise StoreUnavailable("no endpoint answers")

    store, keys = Away(), new_keys()
    cache = WatchCache(store, keys)
    cache.start()
    with pytest.raises(StoreUnavailable, match="no endpoint answers"):
        await QuickReads(cache, Peers(store, keys, cache, "me")).get("pod", "a")
    await cache.stop()


async def test_beside_another_server_the_store_is_always_asked() -> None:
    store, keys = Stalling(), new_keys()
    async with reading(store, keys) as (quick, cache, _):
        await put(store, keys.other(KIND, "another"), b"{}")
        await cache.fresh()
        store.answers.clear()
        waiting = asyncio.create_task(quick.get("pod", "a"))
        done, _ = await asyncio.wait([waiting], timeout=staleness.PATIENCE_S * 3)
        assert not done
        store.answers.set()
        assert (await waiting)[0] is not None


async def test_a_server_that_joins_another_keeps_its_first_write_back() -> None:
    store, keys = Stalling(), new_keys()
    async with reading(store, keys):
        cache = WatchCache(store, keys)
        cache.start()
        joining = Peers(store, keys, cache, "another")
        loop = asyncio.get_running_loop()
        began = loop.time()
        joining.start()
        await asyncio.wait_for(joining.entered.wait(), 10)
        assert loop.time() - began >= MAX_AGE_S
        await joining.stop()
        assert await store.get(keys.other(KIND, "another")) is None
        await cache.stop()


async def test_a_server_that_comes_back_under_its_name_begins_at_once() -> None:
    store, keys = Stalling(), new_keys()
    async with reading(store, keys):
        await put(store, keys.other(KIND, "another"), b"{}")
        cache = WatchCache(store, keys)
        back = Peers(store, keys, cache, "another")
        back.start()
        await asyncio.wait_for(back.entered.wait(), MAX_AGE_S / 2)
        await back.stop()
