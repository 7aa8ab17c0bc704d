"""How fast the store is: ``python -m benchmarks.store [--keys N]``. Starts an etcd of its own in a temporary folder.

Prints one line per measurement. On a shared machine only the ratios mean something.
"""

import argparse
import asyncio
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, contextmanager

import uvloop

from milpa_ray.store.connection import EtcdConfig
from milpa_ray.store.embedded import EmbeddedEtcd
from milpa_ray.store.etcd import EtcdStore
from milpa_ray.store.group import Verdict, WriteGroup, group_commit
from milpa_ray.store.memory import MemoryStore
from milpa_ray.store.port import Compare, Put, Store, Txn, WatchBatch
from milpa_ray.store.reading import pages

VALUE = b"x" * 1000
SINGLE_PUTS = 2000
IN_FLIGHT = 64


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextmanager
def measured(what: str, amount: int) -> Iterator[None]:
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"  {what:<34} {amount / wall:>9,.0f} keys/s   {cpu / amount * 1e6:>6.1f} us CPU per key", flush=True)


async def single_puts(store: Store) -> None:
    gate = asyncio.Semaphore(IN_FLIGHT)

    async def put(number: int) -> None:
        async with gate:
            await store.commit(Txn(ops=(Put(f"/single/{number}", VALUE),)))

    with measured(f"single puts, {IN_FLIGHT} in flight", SINGLE_PUTS):
        await asyncio.gather(*(put(number) for number in range(SINGLE_PUTS)))


async def grouped(store: Store, keys: int) -> None:
    fence = Compare("/map", (await store.commit(Txn(ops=(Put("/map", b""),)))).revision)
    groups = [WriteGroup((Compare(key, 0),), (Put(key, VALUE),)) for key in (f"/k/{n:07}" for n in range(keys))]
    with measured("group commit, compare-and-swap", keys):
        outcomes = await group_commit(store, groups, fence)
    assert all(outcome.verdict is Verdict.COMMITTED for outcome in outcomes)


async def scan(store: Store, keys: int) -> None:
    with measured("scan, pages of 1,000", keys):
        found = [len(page.entries) async for page in pages(store, "/k/", "/k0")]
    assert sum(found) == keys


async def replay(store: Store, keys: int) -> None:
    async def run(watch: AsyncIterator[WatchBatch]) -> None:
        seen = 0
        while seen < keys:
            seen += len((await anext(watch)).changes)

    with measured("watch from the beginning", keys):
        async with aclosing(store.watch("/k/", "/k0", 1)) as watch:
            await run(watch)


async def measure(store: Store, keys: int) -> None:
    await single_puts(store)
    await grouped(store, keys)
    await scan(store, keys)
    await replay(store, keys)
    await store.close()


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures the store.")
    parser.add_argument("--keys", type=int, default=20_000, help="keys written, read and watched")
    keys = parser.parse_args().keys
    print("memory:")
    uvloop.run(measure(MemoryStore(), keys))
    with tempfile.TemporaryDirectory() as folder:
        etcd = EmbeddedEtcd(f"{folder}/data", f"{folder}/run", f"{folder}/etcd.log", client_port=free_port())
        try:
            endpoint = etcd.start()
            print(f"etcd at {endpoint}:")
            uvloop.run(measure(EtcdStore(EtcdConfig((endpoint,))), keys))
        finally:
            etcd.stop()


if __name__ == "__main__":
    main()
