"""The watch cache: linearizable, whole, and quick to find its feet again."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from milpa_ray.api import Event, Node, Pod
from milpa_ray.api.meta import ObjectMeta
from milpa_ray.errors import Compacted, StoreUnavailable
from milpa_ray.keys import Keys
from milpa_ray.server.cache import WatchCache
from milpa_ray.server.history import Event as Told
from milpa_ray.store.memory import MemoryStore
from milpa_ray.store.port import Delete, Put, Store, Txn, WatchBatch
from tests.server.serving import new_keys


def pod(name: str, **labels: str) -> bytes:
    return Pod(metadata=ObjectMeta(name=name, labels=labels)).to_json()


async def put(store: Store, key: str, value: bytes) -> int:
    return (await store.commit(Txn(ops=(Put(key, value),)))).revision


@pytest.fixture
def keys() -> Keys:
    return new_keys()


@pytest.fixture
async def cache(store: Store, keys: Keys) -> AsyncIterator[WatchCache]:
    found = WatchCache(store, keys)
    found.start()
    yield found
    await found.stop()


async def test_what_was_committed_before_is_there_after_fresh(store: Store, keys: Keys, cache: WatchCache) -> None:
    for number in range(20):
        await put(store, keys.pod(f"p{number}"), pod(f"p{number}", n=str(number)))
        await cache.fresh()
        item = cache.get("pod", f"p{number}")
        assert item is not None
        assert item.meta.labels == {"n": str(number)}
    await store.commit(Txn(ops=(Delete(keys.pod("p3")),)))
    await cache.fresh()
    assert cache.get("pod", "p3") is None
    assert len(cache.items("pod")) == 19


async def test_the_first_list_is_waited_for_and_leaves_out_what_is_not_cached(store: Store, keys: Keys) -> None:
    await put(store, keys.pod("a"), pod("a"))
    await put(store, keys.other("Event", "e"), Event().to_json())
    await put(store, keys.map, b"{}")
    cache = WatchCache(store, keys)
    cache.start()
    await cache.fresh()
    await put(store, keys.other("Event", "e2"), Event().to_json())
    await put(store, keys.prefix("batch") + "b", b"{}")
    await cache.fresh()
    assert {kind: count for kind, count in cache.counts().items() if count} == {"pod": 1}
    await cache.stop()


async def test_others_on_the_same_etcd_do_not_hold_up_reads(store: Store, keys: Keys, cache: WatchCache) -> None:
    await cache.fresh()
    for number in range(3):
        await put(store, f"/another/{number}", b"")
        await cache.fresh(timeout_s=3)


async def test_readers_at_the_same_time_share_the_stores_answer(keys: Keys) -> None:
    class Counting(MemoryStore):
        asked = 0

        async def revision(self) -> int:
            self.asked += 1
            await asyncio.sleep(0.01)
            return await super().revision()

    store = Counting()
    cache = WatchCache(store, keys)
    cache.start()
    await asyncio.gather(*(cache.fresh() for _ in range(100)))
    assert store.asked == 1
    # One that comes while a read is under way must not take that read's answer.
    first = asyncio.create_task(cache.fresh())
    await asyncio.sleep(0.005)
    revision = await put(store, keys.pod("late"), pod("late"))
    assert await cache.fresh() >= revision
    assert cache.get("pod", "late") is not None
    await first
    await cache.stop()


async def test_a_node_that_moves_to_another_slot_is_one_change(store: Store, keys: Keys, cache: WatchCache) -> None:
    node = Node(metadata=ObjectMeta(name="n")).to_json()
    await put(store, keys.node(900, "n"), node)
    revision = await cache.fresh()
    await store.commit(Txn(ops=(Put(keys.node(3, "n"), node), Delete(keys.node(900, "n")))))
    await cache.fresh()
    item = cache.get("node", "n")
    assert item is not None
    assert item.key == keys.node(3, "n")
    batch, _ = await anext(cache.history.follow(revision, 1))
    assert [(e.before is not None, e.after is not None) for e in batch] == [(True, True)]


async def test_after_a_compaction_it_lists_anew_and_tells_the_difference(keys: Keys) -> None:
    class Forgetful(MemoryStore):
        """Its watch holds changes back, and then has forgotten them."""

        forget = asyncio.Event()

        async def watch(self, start: str, end: str, revision: int) -> AsyncIterator[WatchBatch]:
            if not self.forget.is_set():
                await self.forget.wait()
                raise Compacted(revision + 1)
            async for batch in super().watch(start, end, revision):
                yield batch

    store = Forgetful()
    await put(store, keys.pod("same"), pod("same"))
    await put(store, keys.pod("changed"), pod("changed"))
    await put(store, keys.pod("gone"), pod("gone"))
    cache = WatchCache(store, keys)
    cache.start()
    await cache.reached(1)
    revision = cache.revision
    await put(store, keys.pod("new"), pod("new"))
    await put(store, keys.pod("changed"), pod("changed", a="b"))
    await store.commit(Txn(ops=(Delete(keys.pod("gone")),)))
    store.forget.set()
    await cache.fresh()
    batch, _ = await anext(cache.history.follow(revision, 1))

    def told(event: Told) -> tuple[str, bool, bool]:
        item = event.after or event.before
        assert item is not None
        return item.name, event.before is not None, event.after is not None

    assert [told(event) for event in batch] == [("new", False, True), ("changed", True, True), ("gone", True, False)]
    await cache.stop()


async def test_a_store_that_is_away_is_said_so(keys: Keys) -> None:
    class Away(MemoryStore):
        async def revision(self) -> int:
            raise StoreUnavailable("no endpoint answers")

    cache = WatchCache(Away(), keys)
    cache.start()
    with pytest.raises(StoreUnavailable, match="no endpoint answers"):
        await cache.fresh()
    await cache.stop()


async def test_a_cache_that_does_not_catch_up_gives_up(keys: Keys) -> None:
    class Stuck(MemoryStore):
        async def watch(self, start: str, end: str, revision: int) -> AsyncIterator[WatchBatch]:
            await asyncio.Event().wait()
            yield WatchBatch(0)

    store = Stuck()
    cache = WatchCache(store, keys)
    cache.start()
    await cache.fresh()
    await put(store, keys.pod("a"), pod("a"))
    with pytest.raises(StoreUnavailable, match="has not caught up"):
        await cache.fresh(timeout_s=0.2)
    await cache.stop()
