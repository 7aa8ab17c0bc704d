"""Lists and watches through real gRPC."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from milpa_ray.api import LogFile, Node, Pod
from milpa_ray.api.meta import ObjectMeta
from milpa_ray.client import Change, WatchEvent
from milpa_ray.client.calls import make_pod
from milpa_ray.errors import NotFound
from milpa_ray.proto import milpa_pb2 as pb
from milpa_ray.server import api
from milpa_ray.server.cache import WatchCache
from milpa_ray.server.history import History
from milpa_ray.store.memory import MemoryStore
from milpa_ray.store.port import Delete, Put, Txn
from tests.server.serving import Served, serving


def pod(name: str, **labels: str) -> Pod:
    return make_pod(name, "registry.local/web:1", ["serve"], labels=labels)


async def put_pods(served: Served, count: int) -> None:
    """Many pods at once, past the API server's writes."""
    ops = [Put(served.keys.pod(f"p{n:05}"), pod(f"p{n:05}", n=str(n % 10)).to_json()) for n in range(count)]
    for at in range(0, count, 128):
        await served.store.commit(Txn(ops=tuple(ops[at : at + 128])))


async def test_reads_show_what_was_acknowledged_by_another_server(served: Served, tmp_path: Path) -> None:
    async with serving(served.store, tmp_path, keys=served.keys) as second:
        for number in range(5):
            await served.client.create(pod(f"p{number}"))
            assert (await second.client.get(Pod, f"p{number}")).name == f"p{number}"
            await second.client.apply(pod(f"p{number}", v="2"))
            assert (await served.client.get(Pod, f"p{number}")).metadata.labels == {"v": "2"}


async def test_lists_are_sorted_and_selected(served: Served) -> None:
    await served.client.create([pod("c", app="x"), pod("a", app="y"), pod("b", app="x", tier="db")])
    assert [p.name for p in await served.client.list(Pod)] == ["a", "b", "c"]
    assert [p.name for p in await served.client.list("po", "app=x")] == ["b", "c"]
    assert [p.name for p in await served.client.list("po", "app in (x, y), !tier")] == ["a", "c"]
    assert await served.client.list(Node) == []
    with pytest.raises(NotFound, match="there is no pod 'd'"):
        await served.client.get("pods", "d")


async def test_ten_thousand_pods_are_listed_well_under_a_second(memory: Served) -> None:
    await put_pods(memory, 10_000)
    await memory.client.get(Pod, "p00000")
    started = time.perf_counter()
    raw = [data async for data in memory.client.list_raw("pods")]
    whole = time.perf_counter() - started
    started = time.perf_counter()
    selected = [data async for data in memory.client.list_raw("pods", selector="n=3")]
    by_label = time.perf_counter() - started
    assert (len(raw), len(selected)) == (10_000, 1_000)
    # Client included; 0.05 s and 0.1 s on a quiet machine.
    assert whole < 1.0
    assert by_label < 1.0


async def take(events: AsyncIterator[WatchEvent], count: int) -> list[tuple[str, str]]:
    found = []
    async with asyncio.timeout(10):
        async for event in events:
            found.append((str(event.change), event.name))
            if len(found) == count:
                break
    return found


async def test_a_watch_tells_what_is_there_and_then_what_changes(served: Served) -> None:
    await served.client.create([pod("a", app="x"), pod("b", app="y")])
    watch = served.client.watch("pods")
    assert await take(watch, 3) == [("present", "a"), ("present", "b"), ("synced", "")]
    watch = served.client.watch("pods", selector="app=x")
    assert await take(watch, 2) == [("present", "a"), ("synced", "")]

    watch = served.client.watch("pods", selector="app=x")
    events = []
    task = asyncio.create_task(take(watch, 6))
    await asyncio.sleep(0.05)
    await served.client.apply(pod("b", app="x"))
    await served.client.apply(pod("a", app="x", more="1"))
    await served.client.apply(pod("a", app="z"))
    await served.client.create(pod("c", app="z"))
    await served.store.commit(Txn(ops=(Delete(served.keys.pod("b")),)))
    events = await task
    assert events[:2] == [("present", "a"), ("synced", "")]
    assert events[2:] == [("added", "b"), ("modified", "a"), ("removed", "a"), ("removed", "b")]


async def test_a_watch_of_one_name_resumes_after_a_revision(served: Served) -> None:
    (first,) = await served.client.create(pod("a"))
    await served.client.create(pod("b"))
    await served.client.apply(pod("a", v="2"))
    watch = served.client.watch("pods", "a", revision=first.revision)
    async for event in watch:
        assert (event.change, event.resource.metadata.labels) == (Change.MODIFIED, {"v": "2"})
        break


async def test_a_watch_from_a_forgotten_revision_is_out_of_range(memory: Served) -> None:
    await memory.client.create(pod("a"))
    with pytest.raises(Exception, match="too old") as caught:
        async for _ in memory.stub().Watch(pb.WatchRequest(kind="Pod", revision=1)):
            pass
    assert caught.value.code().name == "OUT_OF_RANGE"


async def test_a_watch_that_another_server_began_repeats_nothing(served: Served, tmp_path: Path) -> None:
    """The second server may be behind the first."""
    async with serving(served.store, tmp_path, keys=served.keys) as second:
        await second.client.list("pods")
        (first,) = await served.client.create(pod("a"))
        watch = second.client.watch("pods", revision=first.revision)
        told = asyncio.create_task(take(watch, 1))
        await second.client.create(pod("b"))
        assert await told == [("added", "b")]
        with pytest.raises(Exception, match="was it restored") as caught:
            async for _ in second.stub().Watch(pb.WatchRequest(kind="Pod", revision=first.revision + 10**6)):
                pass
        assert caught.value.code().name == "OUT_OF_RANGE"


async def test_a_slow_watcher_is_cut_and_the_client_catches_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The client does not read for a while; the server forgets, says so, and the client lists anew by itself."""
    monkeypatch.setattr(api, "WatchCache", lambda store, keys: WatchCache(store, keys, History(max_events=200)))
    async with serving(MemoryStore(), tmp_path) as served:
        await put_pods(served, 10)
        seen: dict[str, str] = {}
        events = served.client.watch("pods")
        async for event in events:
            seen[event.name] = ""
            if event.change is Change.SYNCED:
                break
        events = served.client.watch("pods")
        await anext(events)
        big = "x" * 100_000
        for number in range(300):
            body = make_pod("p00001", "i", env={"BIG": big, "N": str(number)}).to_json()
            await served.store.commit(Txn(ops=(Put(served.keys.pod("p00001"), body),)))
        await served.store.commit(Txn(ops=(Delete(served.keys.pod("p00002")),)))
        removed = newest = False
        told = 0
        async with asyncio.timeout(20):
            async for event in events:
                removed |= (event.change, event.name) == (Change.REMOVED, "p00002")
                told += event.name == "p00001"
                newest |= event.name == "p00001" and b'"299"' in event.json
                if removed and newest:
                    break
        assert told < 290


async def test_records_that_are_not_cached_are_listed_and_watched_too(served: Served) -> None:
    names = [f"log{number:04}" for number in range(1200)]
    for at in range(0, len(names), 100):
        ops = (
            Put(served.keys.other("LogFile", name), LogFile(metadata=ObjectMeta(name=name)).to_json())
            for name in names[at : at + 100]
        )
        await served.store.commit(Txn(ops=tuple(ops)))
    assert [file.name for file in await served.client.list(LogFile)] == names
    assert (await served.client.get(LogFile, "log0007")).name == "log0007"
    with pytest.raises(NotFound):
        await served.client.get(LogFile, "none")
    task = asyncio.create_task(take(served.client.watch("logfiles", "log0007"), 4))
    await asyncio.sleep(0.1)
    for name in ("log0007", "log0008"):
        key = served.keys.other("LogFile", name)
        await served.store.commit(Txn(ops=(Put(key, LogFile(metadata=ObjectMeta(name=name)).to_json()),)))
        await served.store.commit(Txn(ops=(Delete(key),)))
    assert await task == [("present", "log0007"), ("synced", ""), ("modified", "log0007"), ("removed", "log0007")]
