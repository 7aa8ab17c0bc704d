"""A view keeps up with the store, never goes back, and parses nothing that its own process has just written."""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest

from milpa_ray.controller.pacing import Backoff
from milpa_ray.controller.view import KeyView
from milpa_ray.store.connection import EtcdConfig
from milpa_ray.store.etcd import EtcdStore
from milpa_ray.store.memory import MemoryStore
from milpa_ray.store.port import Delete, Entry, Op, Page, Put, Txn
from tests.waiting import eventually

Record = dict[str, int]


class Rig:
    """A view of ``/a/`` that counts what it parses."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.parsed: list[bytes] = []
        self.changes: list[str] = []
        self.view: KeyView[Record] = KeyView(
            self.store, ("/a/", "/a0"), self._decode, self._on_change, Backoff(random.Random(1), 0.01, 0.1)
        )

    def _decode(self, _key: str, value: bytes) -> Record:
        self.parsed.append(value)
        record: Record = json.loads(value)
        return record

    def _on_change(self, key: str, _before: object, _after: object) -> None:
        self.changes.append(key)

    async def commit(self, *ops: Op) -> int:
        return (await self.store.commit(Txn(ops=ops))).revision

    async def seen(self, revision: int) -> None:
        await eventually(lambda: self.view.revision >= revision)


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with following() as made:
        yield made


@asynccontextmanager
async def following() -> AsyncIterator[Rig]:
    made = Rig()
    task = asyncio.create_task(made.view.run())
    await made.view.synced.wait()
    try:
        yield made
    finally:
        task.cancel()
        await asyncio.wait([task])


def written(record: Record) -> tuple[bytes, Record]:
    return json.dumps(record).encode(), record


async def test_an_own_write_that_the_watch_tells_first_is_not_parsed(rig: Rig) -> None:
    write = written({"n": 1})
    with rig.view.writing({"/a/x": write}):
        revision = await rig.commit(Put("/a/x", write[0]))
        await rig.seen(revision)
        assert rig.view.items["/a/x"].obj is write[1]
        assert rig.view.items["/a/x"].revision == revision
        rig.view.apply("/a/x", write[1], revision)
    assert rig.parsed == []
    assert rig.changes == ["/a/x"]


async def test_an_own_write_that_is_found_by_reading_is_not_parsed() -> None:
    rig, write = Rig(), written({"n": 1})  # not followed: nothing comes by the watch
    with rig.view.writing({"/a/x": write}):
        await rig.commit(Put("/a/x", write[0]))
        await rig.view.reread("/a/x")
    assert rig.view.items["/a/x"].obj is write[1]
    assert rig.parsed == []


async def test_what_another_wrote_to_the_key_meanwhile_is_parsed(rig: Rig) -> None:
    write, other = written({"n": 1}), written({"n": 2})
    with rig.view.writing({"/a/x": write}):
        await rig.seen(await rig.commit(Put("/a/x", other[0]), Put("/a/y", write[0])))
    assert rig.view.items["/a/x"].obj == {"n": 2}
    assert rig.view.items["/a/y"].obj == {"n": 1}
    assert sorted(rig.parsed) == sorted([other[0], write[0]])


@pytest.mark.parametrize("error", [None, ValueError, asyncio.CancelledError])
async def test_a_write_is_remembered_only_while_it_is_under_way(rig: Rig, error: type[BaseException] | None) -> None:
    write = written({"n": 1})
    try:
        with rig.view.writing({"/a/x": write}):
            if error is not None:
                raise error
    except (ValueError, asyncio.CancelledError):
        pass
    await rig.seen(await rig.commit(Put("/a/x", write[0])))
    assert rig.parsed == [write[0]]


async def test_the_end_of_one_write_leaves_another_of_the_same_key(rig: Rig) -> None:
    first, second = written({"n": 1}), written({"n": 2})
    with rig.view.writing({"/a/x": first}):
        late = rig.view.writing({"/a/x": second})
        late.__enter__()
    await rig.seen(await rig.commit(Put("/a/x", second[0])))
    late.__exit__(None, None, None)
    assert rig.parsed == []
    assert rig.view.items["/a/x"].obj is second[1]


async def test_an_own_commit_is_not_undone_by_an_older_entry(rig: Rig) -> None:
    revision = await rig.commit(Put("/a/x", written({"n": 1})[0]))
    await rig.seen(revision)
    rig.view.apply("/a/x", {"n": 9}, revision + 5)
    rig.view.apply_entry(Entry("/a/x", written({"n": 2})[0], 1, revision + 4))
    assert rig.view.items["/a/x"].obj == {"n": 9}
    rig.view.remove("/a/x", revision + 6)
    rig.view.apply_entry(Entry("/a/x", written({"n": 3})[0], 1, revision + 5))
    assert "/a/x" not in rig.view.items


async def test_deletions_and_unreadable_records(rig: Rig) -> None:
    await rig.commit(Put("/a/x", written({"n": 1})[0]))
    await rig.commit(Put("/a/x", b"{"))
    await rig.seen(await rig.commit(Put("/a/y", written({"n": 2})[0])))
    assert {key: item.obj for key, item in rig.view.items.items()} == {"/a/x": {"n": 1}, "/a/y": {"n": 2}}
    await rig.seen(await rig.commit(Delete("/a/x")))
    assert list(rig.view.items) == ["/a/y"]


class Scans(MemoryStore):
    """Remembers what was listed, and holds lists up while ``open`` is unset."""

    def __init__(self) -> None:
        super().__init__()
        self.scanned: list[tuple[str, str]] = []
        self.open = asyncio.Event()
        self.open.set()

    async def scan(
        self, start: str, end: str, *, limit: int = 1000, revision: int = 0, keys_only: bool = False
    ) -> Page:
        self.scanned.append((start, end))
        await self.open.wait()
        return await super().scan(start, end, limit=limit, revision=revision, keys_only=keys_only)


class Moving(Rig):
    """A view of ``/a/3`` to before ``/a/6`` of ten keys, ``/a/0`` to ``/a/9``."""

    def __init__(self) -> None:
        super().__init__()
        self.store = self.scans = Scans()
        self.view = KeyView(
            self.store, ("/a/3", "/a/6"), self._decode, self._on_change, Backoff(random.Random(1), 0.01, 0.1)
        )

    @property
    def known(self) -> str:
        return "".join(sorted(key.removeprefix("/a/") for key in self.view.items))

    async def put(self, *names: str, n: int = 0) -> int:
        return await self.commit(*(Put(f"/a/{name}", written({"n": n})[0]) for name in names))

    def forget(self) -> None:
        for told in (self.parsed, self.changes, self.scans.scanned):
            told.clear()


@pytest.fixture
async def moving() -> AsyncIterator[Moving]:
    made = Moving()
    await made.put(*"0123456789")
    task = asyncio.create_task(made.view.run())
    await made.view.synced.wait()
    assert made.known == "345"
    made.forget()
    try:
        yield made
    finally:
        task.cancel()
        await asyncio.wait([task])


@pytest.mark.parametrize(
    ("bounds", "known", "scanned"),
    [
        (("/a/2", "/a/8"), "234567", [("/a/2", "/a/3"), ("/a/6", "/a/8")]),
        (("/a/0", "/a/5"), "01234", [("/a/0", "/a/3")]),
        (("/a/4", "/a/9"), "45678", [("/a/6", "/a/9")]),
        (("/a/4", "/a/5"), "4", []),
        (("/a/7", "/a/9"), "78", [("/a/7", "/a/9")]),
        (("/a/0", "/a/2"), "01", [("/a/0", "/a/2")]),
    ],
)
async def test_a_moved_view_lists_only_what_is_new_and_drops_what_left(
    moving: Moving, bounds: tuple[str, str], known: str, scanned: list[tuple[str, str]]
) -> None:
    moving.view.move(bounds)
    assert set(moving.known) == set("345") & set(known)  # at once
    await moving.view.synced.wait()
    assert moving.known == known
    assert moving.scans.scanned == scanned
    assert len(moving.parsed) == len(set(known) - set("345"))
    assert sorted(moving.changes) == sorted(f"/a/{name}" for name in set(known) ^ set("345"))
    await moving.seen(await moving.put(*"0123456789", n=1))
    assert {key for key, item in moving.view.items.items() if item.obj == {"n": 1}} == {f"/a/{name}" for name in known}


async def test_a_view_is_not_synced_until_the_new_keys_are_listed(moving: Moving) -> None:
    moving.scans.open.clear()
    moving.view.move(("/a/3", "/a/8"))
    assert not moving.view.synced.is_set()
    moving.scans.open.set()
    await moving.view.synced.wait()
    moving.view.move(("/a/4", "/a/8"))
    assert moving.view.synced.is_set()  # nothing is new


async def test_a_view_that_moves_while_it_lists_ends_where_it_moved_last(moving: Moving) -> None:
    moving.scans.open.clear()
    moving.view.move(("/a/0", "/a/6"))
    await eventually(lambda: moving.scans.scanned)
    moving.view.move(("/a/5", "/a/9"))
    moving.view.move(("/a/4", "/a/9"))
    moving.scans.open.set()
    await moving.view.synced.wait()
    assert moving.known == "45678"
    assert moving.changes.count("/a/5") == 0
    assert moving.changes.count("/a/4") == 2  # it had left for a moment, and so was read anew


async def test_what_happened_before_the_listing_is_not_told_again(moving: Moving) -> None:
    """The watch goes on from where the old keys are known, which is before the new ones were listed."""
    await moving.put("7", n=1)
    await moving.commit(Delete("/a/6"))
    await moving.put("6", "8", n=2)
    await moving.commit(Delete("/a/8"))
    moving.view.move(("/a/3", "/a/9"))
    await moving.view.synced.wait()
    await moving.seen(await moving.put("3", n=3))
    assert {key: item.obj["n"] for key, item in moving.view.items.items()} == {
        "/a/3": 3, "/a/4": 0, "/a/5": 0, "/a/6": 2, "/a/7": 1
    }  # fmt: skip
    assert sorted(moving.changes) == ["/a/3", "/a/6", "/a/7"]


async def test_nothing_outside_is_taken_over(moving: Moving) -> None:
    moving.view.move(("/a/3", "/a/5"))
    moving.view.apply("/a/5", {"n": 9}, 1_000)
    moving.view.apply_entry(Entry("/a/5", written({"n": 2})[0], 1, 1_000))
    await moving.view.reread("/a/5")
    assert moving.known == "34"


async def test_a_moved_view_lists_all_anew_after_a_compaction(moving: Moving) -> None:
    revision = await moving.put("4", n=1)
    moving.scans.open.clear()
    moving.view.move(("/a/3", "/a/8"))
    await moving.put("4", "7", n=2)
    await moving.store.compact(await moving.store.revision())
    moving.scans.open.set()
    await eventually(lambda: moving.view.revision > revision)
    await moving.seen(await moving.put("7", n=3))
    assert {key: item.obj["n"] for key, item in moving.view.items.items()} == {
        "/a/3": 0, "/a/4": 2, "/a/5": 0, "/a/6": 0, "/a/7": 3
    }  # fmt: skip


async def test_a_view_may_move_before_it_runs() -> None:
    made = Moving()
    await made.put(*"0123456789")
    made.view.move(("/a/1", "/a/3"))
    task = asyncio.create_task(made.view.run())
    await made.view.synced.wait()
    assert made.known == "12"
    task.cancel()
    await asyncio.wait([task])


@pytest.mark.integration
async def test_a_view_moves_over_a_real_etcd(etcd_endpoint: str) -> None:
    store = EtcdStore(EtcdConfig((etcd_endpoint,)))
    root = "/test-view-moves/"

    async def put(n: int) -> int:
        ops = tuple(Put(f"{root}{name}", written({"n": n})[0]) for name in range(10))
        return (await store.commit(Txn(ops=ops))).revision

    await put(0)

    def caught_up(revision: int) -> bool:
        return view.synced.is_set() and view.revision >= revision

    view: KeyView[Record] = KeyView(
        store,
        (f"{root}3", f"{root}6"),
        lambda _key, value: json.loads(value),
        lambda *_: None,
        Backoff(random.Random(1), 0.01, 0.1),
    )
    task = asyncio.create_task(view.run())
    try:
        for n, (low, high) in enumerate(((3, 6), (1, 5), (0, 9), (8, 9), (2, 7)), start=1):
            view.move((f"{root}{low}", f"{root}{high}"))
            if n % 2:
                await view.synced.wait()
            revision = await put(n)
            await eventually(partial(caught_up, revision))
            found = {int(key.removeprefix(root)): item.obj["n"] for key, item in view.items.items()}
            assert found == dict.fromkeys(range(low, high), n)
    finally:
        task.cancel()
        await asyncio.wait([task])
        await store.close()
