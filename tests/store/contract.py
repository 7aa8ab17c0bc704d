"""What every implementation of the store port must do: a test module subclasses ``StoreContract``, gives ``store``."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from itertools import count

import pytest

from milpa_ray.errors import Compacted, LeaseGone, StoreUnavailable
from milpa_ray.keys import prefix_end
from milpa_ray.store.group import Verdict, WriteGroup, group_commit
from milpa_ray.store.port import MAX_TXN_BYTES, MAX_TXN_OPS, Change, Compare, Delete, Put, Store, Txn, WatchBatch
from milpa_ray.store.reading import get_many, pages
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


class StoreContract:
    async def test_absent_key(self, store: Store, root: str) -> None:
        assert await store.get(root + "a") is None

    async def test_put_counts_revisions_and_versions(self, store: Store, root: str) -> None:
        first = await put(store, root + "a", b"1")
        second = await put(store, root + "a", b"2")
        entry = await store.get(root + "a")
        assert second > first
        assert entry is not None
        assert (entry.key, entry.value, entry.version) == (root + "a", b"2", 2)
        assert (entry.create_revision, entry.mod_revision) == (first, second)

    async def test_a_key_made_anew_starts_at_version_one(self, store: Store, root: str) -> None:
        await put(store, root + "a")
        await store.commit(Txn(ops=(Delete(root + "a"),)))
        revision = await put(store, root + "a")
        entry = await store.get(root + "a")
        assert entry is not None
        assert (entry.version, entry.create_revision) == (1, revision)

    async def test_compare_and_swap(self, store: Store, root: str) -> None:
        create = Txn((Compare(root + "a", 0),), (Put(root + "a", b"1"),))
        made = await store.commit(create)
        assert made.ok
        again = await store.commit(create)
        assert not again.ok
        assert again.current[0] is not None
        assert again.current[0].mod_revision == made.revision
        swapped = await store.commit(Txn((Compare(root + "a", made.revision),), (Put(root + "a", b"2"),)))
        assert swapped.ok
        assert await store.revision() == swapped.revision

    async def test_a_failed_compare_shows_all_compared_keys_and_does_nothing(self, store: Store, root: str) -> None:
        revision = await put(store, root + "a")
        compares = (Compare(root + "b", 0), Compare(root + "a", revision + 1), Compare(root + "a2", 7))
        result = await store.commit(Txn(compares, (Put(root + "b", b""),)))
        assert [entry.key if entry else None for entry in result.current] == [None, root + "a", None]
        assert await store.get(root + "b") is None
        assert result.revision == await store.revision() == revision

    async def test_a_transaction_has_one_revision(self, store: Store, root: str) -> None:
        await put(store, root + "gone")
        result = await store.commit(Txn(ops=(Put(root + "a", b""), Put(root + "b", b""), Delete(root + "gone"))))
        page = await store.scan(root, prefix_end(root))
        assert [(e.key, e.mod_revision) for e in page.entries] == [
            (root + "a", result.revision),
            (root + "b", result.revision),
        ]

    async def test_deleting_nothing_raises_no_revision(self, store: Store, root: str) -> None:
        before = await put(store, root + "a")
        result = await store.commit(Txn(ops=(Delete(root + "b"), Delete(root + "c/", root + "c0"))))
        assert result.ok
        assert result.revision == await store.revision() == before

    async def test_delete_of_a_range(self, store: Store, root: str) -> None:
        for name in ("a", "b", "c"):
            await put(store, root + name)
        await store.commit(Txn(ops=(Delete(root + "a", root + "c"),)))
        assert [e.key for e in (await store.scan(root, prefix_end(root))).entries] == [root + "c"]

    async def test_limits(self, store: Store, root: str) -> None:
        keys = [f"{root}{number}" for number in range(MAX_TXN_OPS)]
        full = Txn(tuple(Compare(key, 0) for key in keys), tuple(Put(key, b"") for key in keys))
        assert (await store.commit(full)).ok
        assert not (await store.commit(full)).ok
        wrong = [
            Txn(ops=(*full.ops, Put(root + "x", b""))),
            Txn(compares=(*full.compares, Compare(root + "x", 0))),
            Txn(ops=(Put(root + "x", b"1"), Put(root + "x", b"2"))),
            Txn(ops=(Put(root + "x", b"1"), Delete(root, prefix_end(root)))),
            Txn(ops=(Put(root + "x", b"x" * (MAX_TXN_BYTES + 1)),)),
            Txn(ops=(Put("", b""),)),
        ]
        for txn in wrong:
            with pytest.raises(ValueError, match=r"transaction|twice|empty"):
                await store.commit(txn)

    async def test_the_largest_transaction_fits(self, store: Store, root: str) -> None:
        await put(store, root + "a", b"x" * (MAX_TXN_BYTES - 1000))
        entry = await store.get(root + "a")
        assert entry is not None
        assert len(entry.value) == MAX_TXN_BYTES - 1000

    # ---------------------------------------------------------------- scans

    async def test_pages_show_one_revision(self, store: Store, root: str) -> None:
        names = [f"{root}{number:02}" for number in range(10)]
        for name in names:
            await put(store, name, b"old")
        seen: list[tuple[str, bytes]] = []
        async for page in pages(store, root, prefix_end(root), limit=4):
            seen.extend((entry.key, entry.value) for entry in page.entries)
            await store.commit(Txn(ops=(Put(names[-1], b"new"), Delete(names[5]), Put(root + "zz", b""))))
        assert seen == [(name, b"old") for name in names]

    async def test_scan_reads_history(self, store: Store, root: str) -> None:
        first = await put(store, root + "a", b"1")
        await put(store, root + "a", b"2")
        await store.commit(Txn(ops=(Delete(root + "a"),)))
        assert [e.value for e in (await store.scan(root, prefix_end(root), revision=first)).entries] == [b"1"]
        assert [e.value for e in (await store.scan(root, prefix_end(root), revision=first + 1)).entries] == [b"2"]
        assert (await store.scan(root, prefix_end(root))).entries == ()

    async def test_scan_bounds_and_keys_only(self, store: Store, root: str) -> None:
        for name in ("a", "b", "c"):
            await put(store, root + name)
        page = await store.scan(root + "a", root + "c", keys_only=True)
        assert [(e.key, e.value) for e in page.entries] == [(root + "a", b""), (root + "b", b"")]
        assert page.next_key == ""
        assert (await store.scan(root, prefix_end(root), limit=3)).next_key == ""
        assert (await store.scan(root, prefix_end(root), limit=2)).next_key > root + "b"
        with pytest.raises(ValueError, match="limit"):
            await store.scan(root, prefix_end(root), limit=0)

    async def test_a_future_revision_is_refused(self, store: Store, root: str) -> None:
        revision = await store.revision()
        with pytest.raises(ValueError, match="future"):
            await store.scan(root, prefix_end(root), revision=revision + 1000)
        with pytest.raises(ValueError, match="future"):
            await store.compact(revision + 1000)

    async def test_get_many(self, store: Store, root: str) -> None:
        keys = [f"{root}{number}" for number in range(300)]
        await put(store, keys[7])
        await put(store, keys[299])
        before = await store.revision()
        found = await get_many(store, keys)
        assert {key for key, entry in found.items() if entry} == {keys[7], keys[299]}
        assert list(found) == keys
        assert await store.revision() == before

    # ---------------------------------------------------------------- watches

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

    async def test_keys_vanish_with_their_lease(self, store: Store, root: str) -> None:
        lease, kept = await store.lease_grant(2), await store.lease_grant(2)
        await store.commit(
            Txn(ops=(Put(root + "a", b"", lease), Put(root + "b", b"", lease), Put(root + "c", b"", kept)))
        )
        entry = await store.get(root + "a")
        assert entry is not None
        assert entry.lease == lease
        first = entry.mod_revision
        assert await store.lease_keepalive(kept) == 2

        async def gone() -> bool:
            await store.lease_keepalive(kept)
            return await store.get(root + "a") is None

        await eventually(gone, 10)
        assert await store.lease_keepalive(lease) == 0
        async with aclosing(store.watch(root, prefix_end(root), first + 1)) as watch:
            changes = await take(watch, 2)
        assert [(c.entry.key, c.deleted) for c in changes] == [(root + "a", True), (root + "b", True)]
        assert len({c.entry.mod_revision for c in changes}) == 1
        assert await store.get(root + "c") is not None
        await store.lease_revoke(kept)

    async def test_revoke(self, store: Store, root: str) -> None:
        lease = await store.lease_grant(60)
        await put(store, root + "a", lease=lease)
        await store.lease_revoke(lease)
        assert await store.get(root + "a") is None
        await store.lease_revoke(lease)

    async def test_a_lost_lease_refuses_puts(self, store: Store, root: str) -> None:
        lease = await store.lease_grant(60)
        await store.lease_revoke(lease)
        with pytest.raises(LeaseGone):
            await put(store, root + "a", lease=lease)
        assert await store.get(root + "a") is None

    async def test_a_put_without_lease_frees_the_key(self, store: Store, root: str) -> None:
        lease, other = await store.lease_grant(60), await store.lease_grant(60)
        for key, second in (("a", 0), ("b", other)):
            await put(store, root + key, lease=lease)
            await put(store, root + key, lease=second)
        await store.lease_revoke(lease)
        assert await store.get(root + "a") is not None
        assert await store.get(root + "b") is not None
        await store.lease_revoke(other)

    # ---------------------------------------------------------------- group commit

    async def test_group_commit_under_contention(self, store: Store, root: str) -> None:
        """Many writers raise the same counters, several at once per group: no raise is lost or done twice."""
        names = [f"{root}counter{n}" for n in range(4)]
        fence = Compare(root + "map", await put(store, root + "map"))

        async def raise_all(mine: Callable[[int], list[str]]) -> int:
            done = 0
            for turn in range(15):
                current = await get_many(store, names)
                group = WriteGroup(
                    tuple(Compare(n, e.mod_revision if (e := current[n]) else 0) for n in mine(turn)),
                    tuple(Put(n, str(int(e.value if (e := current[n]) else 0) + 1).encode()) for n in mine(turn)),
                )
                (outcome,) = await group_commit(store, [group], fence)
                assert outcome.verdict in (Verdict.COMMITTED, Verdict.CONFLICT)
                done += len(mine(turn)) * (outcome.verdict is Verdict.COMMITTED)
            return done

        writers = [
            raise_all(lambda turn, w=w: sorted({names[(turn + w) % 4], names[(turn * w) % 4]})) for w in range(6)
        ]
        raised = sum(await asyncio.gather(*writers))
        values = await get_many(store, names)
        assert sum(int(entry.value) for entry in values.values() if entry) == raised > 0

    async def test_group_commit_finds_the_conflicts(self, store: Store, root: str) -> None:
        taken = await put(store, f"{root}{77}")
        groups = [WriteGroup((Compare(f"{root}{n}", 0),), (Put(f"{root}{n}", b""),)) for n in range(300)]
        outcomes = await group_commit(store, groups, None)
        assert [n for n, outcome in enumerate(outcomes) if outcome.verdict is not Verdict.COMMITTED] == [77]
        assert outcomes[77].verdict is Verdict.CONFLICT
        assert outcomes[77].current[0] is not None
        assert outcomes[77].current[0].mod_revision == taken

    async def test_group_commit_stops_at_the_fence(self, store: Store, root: str) -> None:
        fence = Compare(root + "map", await put(store, root + "map"))
        await put(store, root + "map")
        groups = [WriteGroup((), (Put(f"{root}{n}", b""),)) for n in range(1000)]
        outcomes = await group_commit(store, groups, fence)
        assert {outcome.verdict for outcome in outcomes} == {Verdict.FENCED}
        assert [e.key for e in (await store.scan(root, prefix_end(root))).entries] == [root + "map"]
