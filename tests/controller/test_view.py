"""A view keeps up with the store, never goes back, and parses nothing that its own process has just written."""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from milpa_ray.controller.pacing import Backoff
from milpa_ray.controller.view import KeyView
from milpa_ray.store.memory import MemoryStore
from milpa_ray.store.port import Delete, Entry, Op, Put, Txn
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
