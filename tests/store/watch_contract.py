"""The part of the store contract that is about watches and compaction, and what all of it shares."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from itertools import count

import pytest

from milpa_ray.errors import Compacted, StoreUnavailable
from milpa_ray.keys import prefix_end
from milpa_ray.store.group import Verdict, WriteGroup, group_commit
from milpa_ray.store.port import MAX_TXN_OPS, Change, Delete, Put, Store, Txn, WatchBatch
from tests.waiting import eventually

_roots = count()


@pytest.fixture
def root() -> str:
    """A prefix of the test's own, since one etcd serves many tests."""
    return f"/contract/{next(_roots)}/"


async def put(store: Store, key: str, value: bytes = b"v", lease: int = 0) -> int:
    result = await store.commit(Txn(ops=(Put(key, value, lease),)))
    assert result.ok
    return result.revision


async def take(watch: AsyncIterator[WatchBatch], amount: int, timeout_s: float = 20) -> list[Change]:
    """The next ``amount`` changes at least, whole batches."""
    found: list[Change] = []
    async with asyncio.timeout(timeout_s):
        while len(found) < amount:
            found.extend((await anext(watch)).changes)
    return found


class WatchContract:
    async def test_watch_shows_history_then_news(self, store: Store, root: str) -> None:
        first = await put(store, root + "a", b"1")
        await put(store, root + "a", b"2")
        async with aclosing(store.watch(root, prefix_end(root), first + 1)) as watch:
            old = await take(watch, 1)
            await store.commit(Txn(ops=(Delete(root + "a"),)))
            news = await take(watch, 1)
        assert [(c.entry.value, c.deleted) for c in old + news] == [(b"2", False), (b"", True)]
        assert old[0].entry.create_revision == first
        assert news[0].entry.mod_revision == first + 2

    async def test_watch_shows_its_range_only(self, store: Store, root: str) -> None:
        first = await put(store, root + "b")
        for name in ("a", "c", "b2"):
            await put(store, root + name)
        async with aclosing(store.watch(root + "b", root + "c", first)) as watch:
            assert [c.entry.key for c in await take(watch, 2)] == [root + "b", root + "b2"]

    async def test_a_transaction_is_never_torn(self, store: Store, root: str) -> None:
        value = b"x" * 10_000  # together above the 1.5 MB at which etcd begins to fragment its answers
        first = await store.revision() + 1
        for _ in range(12):
            await store.commit(Txn(ops=tuple(Put(f"{root}{n}", value) for n in range(MAX_TXN_OPS))))
        seen: list[WatchBatch] = []
        async with aclosing(store.watch(root, prefix_end(root), first)) as watch, asyncio.timeout(20):
            while sum(len(batch.changes) for batch in seen) < 12 * MAX_TXN_OPS:
                seen.append(await anext(watch))
        where: dict[int, set[int]] = {}
        for index, batch in enumerate(seen):
            for change in batch.changes:
                where.setdefault(change.entry.mod_revision, set()).add(index)
            if batch.changes:
                assert batch.revision >= batch.changes[-1].entry.mod_revision
        assert sorted(where) == list(range(first, first + 12))
        assert all(len(batches) == 1 for batches in where.values())
        assert [batch.revision for batch in seen] == sorted({batch.revision for batch in seen})

    async def test_revision_brings_a_progress_mark(self, store: Store, root: str) -> None:
        await put(store, root + "a/x")
        async with aclosing(store.watch(root + "a/", root + "a0", await store.revision())) as watch:
            await take(watch, 1)
            elsewhere = await put(store, root + "b")
            waiting = asyncio.ensure_future(anext(watch))

            async def marked() -> bool:
                await store.revision()
                return waiting.done()

            await eventually(marked)
            batch = await waiting
        assert batch == WatchBatch(elsewhere)

    async def test_watch_of_many_revisions_in_order(self, store: Store, root: str) -> None:
        first = await store.revision() + 1
        groups = [WriteGroup(ops=(Put(f"{root}{n % 7}", str(n).encode()),)) for n in range(2500)]
        outcomes = await group_commit(store, groups, None)
        assert {outcome.verdict for outcome in outcomes} == {Verdict.COMMITTED}
        async with aclosing(store.watch(root, prefix_end(root), first)) as watch:
            seen = await take(watch, 2500)
        for name in range(7):
            values = [int(c.entry.value) for c in seen if c.entry.key == f"{root}{name}"]
            assert values == list(range(name, 2500, 7))

    async def test_watches_end_with_the_store(self, store: Store, root: str) -> None:
        watch = store.watch(root, prefix_end(root), await store.revision() + 1)
        waiting = asyncio.ensure_future(anext(watch))
        await asyncio.sleep(0)
        await store.close()
        with pytest.raises(StopAsyncIteration):
            await asyncio.wait_for(waiting, 10)
        with pytest.raises(StoreUnavailable):
            await store.get(root)

    async def test_a_watch_can_be_cancelled(self, store: Store, root: str) -> None:
        watch = store.watch(root, prefix_end(root), await store.revision() + 1)
        waiting = asyncio.ensure_future(anext(watch))
        await asyncio.sleep(0.05)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert await store.get(root) is None

    async def test_a_watch_of_a_store_that_went_back_is_refused(self, store: Store, root: str) -> None:
        async with aclosing(store.watch(root, prefix_end(root), await store.revision() + 1000)) as watch:
            with pytest.raises(Compacted):
                await asyncio.wait_for(anext(watch), 10)

    # ---------------------------------------------------------------- compaction

    async def test_compaction_forgets_history_only(self, store: Store, root: str) -> None:
        first = await put(store, root + "a", b"1")
        await put(store, root + "b")
        await store.commit(Txn(ops=(Delete(root + "b"),)))
        last = await put(store, root + "a", b"2")
        await store.compact(last)
        with pytest.raises(Compacted):
            await store.scan(root, prefix_end(root), revision=first)
        page = await store.scan(root, prefix_end(root), revision=last)
        assert [(e.key, e.value, e.create_revision, e.version) for e in page.entries] == [(root + "a", b"2", first, 2)]
        with pytest.raises(Compacted):
            await store.compact(last)

    async def test_watch_from_a_compacted_revision_is_refused(self, store: Store, root: str) -> None:
        first = await put(store, root + "a")
        last = await put(store, root + "a")
        await store.compact(last)
        for revision in (first, last):  # at the compacted revision itself etcd may have lost a deletion
            async with aclosing(store.watch(root, prefix_end(root), revision)) as watch:
                with pytest.raises(Compacted) as caught:
                    await asyncio.wait_for(anext(watch), 10)
                assert caught.value.compact_revision == last
        async with aclosing(store.watch(root, prefix_end(root), last + 1)) as watch:
            news = asyncio.ensure_future(take(watch, 1))
            await put(store, root + "b")
            assert [c.entry.key for c in await news] == [root + "b"]

    async def test_relist_after_compaction(self, store: Store, root: str) -> None:
        """What a cache does: list, watch, and both anew when the history is gone."""
        start = await put(store, root + "a")
        await put(store, root + "b")
        await store.compact(await put(store, root + "c"))
        cache: set[str] = set()
        revision = start
        for _ in range(2):
            try:
                async with aclosing(store.watch(root, prefix_end(root), revision + 1)) as watch:
                    waiting = asyncio.ensure_future(take(watch, 1))
                    await put(store, root + "d")
                    cache.update(c.entry.key for c in await waiting)
            except Compacted:
                page = await store.scan(root, prefix_end(root))
                cache, revision = {e.key for e in page.entries}, page.revision
        assert cache == {root + name for name in "abcd"}

    async def test_a_live_watch_outlives_compaction(self, store: Store, root: str) -> None:
        first = await put(store, root + "a")
        async with aclosing(store.watch(root, prefix_end(root), first)) as watch:
            await take(watch, 1)
            waiting = asyncio.ensure_future(take(watch, 1))
            elsewhere = await put(store, "/elsewhere")
            await asyncio.sleep(0)
            await store.compact(elsewhere)
            await put(store, root + "b")
            assert [c.entry.key for c in await waiting] == [root + "b"]

    # ---------------------------------------------------------------- leases
