import asyncio

import pytest

from milpa_ray.store.memory import MemoryStore
from milpa_ray.store.port import Put, Store, Txn
from tests.store.contract import StoreContract, put, root

__all__ = ["root"]


@pytest.fixture
def store() -> Store:
    return MemoryStore()


class TestMemoryStore(StoreContract):
    pass


async def test_sessions_share_data_and_close_alone() -> None:
    one = MemoryStore()
    two = one.session()
    revision = await put(one, "a")
    waiting = asyncio.ensure_future(anext(two.watch("a", "b", revision + 1)))
    await asyncio.sleep(0)
    await one.close()
    await put(two, "a", b"2")
    assert (await waiting).changes[0].entry.value == b"2"


async def test_the_same_calls_give_the_same_revisions() -> None:
    async def run() -> list[int]:
        store = MemoryStore()
        return [(await store.commit(Txn(ops=(Put(str(n % 3), b""),)))).revision for n in range(9)]

    assert await run() == await run() == list(range(2, 11))
