import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from milpa_ray.errors import StoreUnavailable
from milpa_ray.store.connection import EtcdConfig
from milpa_ray.store.etcd import EtcdStore
from milpa_ray.store.lease import TaskLeaseKeeper, ThreadLeaseKeeper
from milpa_ray.store.memory import MemoryStore
from milpa_ray.store.port import Put, Txn
from tests.etcd_server import EtcdServer, free_ports
from tests.waiting import eventually

TTL_S = 2


@pytest.fixture
async def store(etcd_endpoint: str) -> AsyncIterator[EtcdStore]:
    store = EtcdStore(EtcdConfig((etcd_endpoint,)))
    yield store
    await store.close()


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[EtcdServer]:
    server = EtcdServer(tmp_path).start()
    yield server
    server.stop()


async def hold(store: EtcdStore | MemoryStore, key: str, lease: int) -> None:
    await store.commit(Txn(ops=(Put(key, b"", lease),)))


# -------------------------------------------------------------------- from a task


async def test_a_task_keeps_the_lease_until_it_stops() -> None:
    store = MemoryStore()
    async with TaskLeaseKeeper(store, TTL_S) as keeper:
        await hold(store, "leader", keeper.lease)
        started = time.monotonic()
        await eventually(lambda: time.monotonic() > started + 1.5 * TTL_S)
        assert await store.get("leader") is not None
        assert not keeper.lost.is_set()
    assert await store.get("leader") is None
    assert not keeper.lost.is_set()


async def test_a_revoked_lease_is_lost() -> None:
    store = MemoryStore()
    async with TaskLeaseKeeper(store, TTL_S) as keeper:
        await store.lease_revoke(keeper.lease)
        await asyncio.wait_for(keeper.lost.wait(), TTL_S)


async def test_a_lease_that_cannot_be_renewed_is_lost_in_time() -> None:
    class Silent(MemoryStore):
        async def lease_keepalive(self, lease: int) -> int:
            raise StoreUnavailable("silent")

    async with TaskLeaseKeeper(Silent(), TTL_S) as keeper:
        started = time.monotonic()
        await asyncio.wait_for(keeper.lost.wait(), 2 * TTL_S)
        assert TTL_S - 0.1 <= time.monotonic() - started < TTL_S + 0.5


async def test_stopping_without_revoking_leaves_the_lease_to_run_out() -> None:
    store = MemoryStore()
    keeper = TaskLeaseKeeper(store, TTL_S)
    await hold(store, "leader", await keeper.start())
    await keeper.stop(revoke=False)
    assert await store.get("leader") is not None


# -------------------------------------------------------------------- from a thread


@pytest.mark.integration
async def test_a_thread_keeps_the_lease_while_the_loop_is_busy(store: EtcdStore, etcd_endpoint: str) -> None:
    async with ThreadLeaseKeeper(EtcdConfig((etcd_endpoint,)), TTL_S, stall_s=60) as keeper:
        await hold(store, "/lease/busy", keeper.lease)
        time.sleep(1.5 * TTL_S)  # noqa: ASYNC251  the loop hangs, on purpose
        assert await store.get("/lease/busy") is not None
        assert not keeper.lost.is_set()
    assert await store.get("/lease/busy") is None


@pytest.mark.integration
async def test_a_hanging_loop_loses_its_lease(store: EtcdStore, etcd_endpoint: str) -> None:
    async with ThreadLeaseKeeper(EtcdConfig((etcd_endpoint,)), TTL_S, stall_s=0.5) as keeper:
        await hold(store, "/lease/hangs", keeper.lease)
        time.sleep(1.8 * TTL_S)  # noqa: ASYNC251  the loop hangs, on purpose
        await asyncio.wait_for(keeper.lost.wait(), 1)

        async def gone() -> bool:
            return await store.get("/lease/hangs") is None

        await eventually(gone)


@pytest.mark.integration
async def test_the_lease_survives_a_short_outage_and_not_a_long_one(own_server: EtcdServer) -> None:
    async with ThreadLeaseKeeper(EtcdConfig((own_server.endpoint,)), 3) as keeper:
        own_server.kill()
        own_server.start()
        store = EtcdStore(EtcdConfig((own_server.endpoint,)))
        await hold(store, "/a", keeper.lease)
        started = time.monotonic()
        await eventually(lambda: time.monotonic() > started + 3.5)
        assert not keeper.lost.is_set()
        assert await store.get("/a") is not None
        await store.close()
        own_server.kill()
        stopped = time.monotonic()
        await asyncio.wait_for(keeper.lost.wait(), 5)
        assert time.monotonic() - stopped < 4


@pytest.mark.integration
async def test_the_other_endpoint_is_used(etcd_endpoint: str) -> None:
    dead = f"127.0.0.1:{free_ports(1)[0]}"
    async with ThreadLeaseKeeper(EtcdConfig((dead, etcd_endpoint)), TTL_S) as keeper:
        assert keeper.lease


async def test_no_etcd_at_all() -> None:
    keeper = ThreadLeaseKeeper(EtcdConfig((f"127.0.0.1:{free_ports(1)[0]}",)), TTL_S)
    with pytest.raises(StoreUnavailable):
        await keeper.start()
