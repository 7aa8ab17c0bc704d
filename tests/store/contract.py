"""What every implementation of the store port must do: a test module subclasses ``StoreContract``, gives ``store``."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing

import pytest

from milpa_ray.errors import LeaseGone
from milpa_ray.keys import prefix_end
from milpa_ray.store.group import Verdict, WriteGroup, group_commit
from milpa_ray.store.port import MAX_TXN_BYTES, MAX_TXN_OPS, Compare, Delete, Put, Store, Txn
from milpa_ray.store.reading import get_many, pages
from tests.store.watch_contract import WatchContract, put, root, take
from tests.waiting import eventually

__all__ = ["StoreContract", "put", "root", "take"]


class StoreContract(WatchContract):
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
