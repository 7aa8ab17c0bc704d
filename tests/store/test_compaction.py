import asyncio
from contextlib import suppress
from pathlib import Path

import pytest

from milpa_ray.errors import Compacted, StoreFull
from milpa_ray.store.compaction import Compactor, relieve_space
from milpa_ray.store.connection import EtcdConfig
from milpa_ray.store.etcd import EtcdStore
from milpa_ray.store.memory import MemoryStore
from milpa_ray.store.port import Delete, Put, Txn
from tests.etcd_server import EtcdServer
from tests.store.contract import put
from tests.waiting import eventually


async def test_history_is_kept_for_its_time_and_no_longer() -> None:
    store = MemoryStore()
    first = await put(store, "a")
    await put(store, "a")
    task = asyncio.create_task(Compactor(store, history_s=0.3).run())
    await asyncio.sleep(0)
    kept = await put(store, "a")

    async def forgotten() -> bool:
        try:
            await store.scan("a", "b", revision=first)
        except Compacted:
            return True
        return False

    assert not await forgotten()
    await eventually(forgotten, 5)
    await store.scan("a", "b", revision=kept)  # was written after the compactor's first look
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def _fill(store: EtcdStore) -> None:
    for _ in range(50):
        await put(store, "/a", b"x" * 500_000)


async def test_a_store_without_quota_is_never_full() -> None:
    assert await relieve_space(MemoryStore()) is False


@pytest.mark.integration
async def test_a_full_etcd_is_relieved(tmp_path: Path) -> None:
    server = EtcdServer(tmp_path, flags=("--quota-backend-bytes", str(4 * 2**20))).start()
    store = EtcdStore(EtcdConfig((server.endpoint,)))
    try:
        with pytest.raises(StoreFull):
            await _fill(store)
        with pytest.raises(StoreFull):
            await store.lease_grant(5)
        await store.commit(Txn(ops=(Delete("/a"),)))
        assert await store.is_full()
        assert await relieve_space(store)
        assert not await store.is_full()
        assert (await store.commit(Txn(ops=(Put("/a", b"again"),)))).ok
        assert await relieve_space(store) is False
    finally:
        await store.close()
        server.stop()
