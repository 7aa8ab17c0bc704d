"""A shard joins by comparing: what an incarnation that died had under way does not take its successor's seat."""

import random
from types import SimpleNamespace
from typing import Any

from milpa_ray.controller.shard import Shard
from milpa_ray.keys import Keys
from milpa_ray.store.memory import MemoryStore
from milpa_ray.store.port import Put, Txn, TxnResult

KEYS = Keys("test")
MEMBER = KEYS.prefix("member") + "0"


class Late(MemoryStore):
    """Remembers what was committed, to commit it once more."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[Txn] = []

    async def commit(self, txn: Txn) -> TxnResult:
        self.sent.append(txn)
        return await super().commit(txn)


def incarnation(store: MemoryStore, uuid: str) -> Shard:
    deps: Any = SimpleNamespace(store=store, keys=KEYS, rng=random.Random(1))
    shard = Shard(deps, "0")
    shard.incarnation = uuid
    return shard


async def member(store: MemoryStore) -> bytes:
    entry = await store.get(MEMBER)
    return entry.value if entry is not None else b""


async def test_a_join_that_arrives_again_changes_nothing() -> None:
    store = Late()
    await incarnation(store, "first")._join(await store.lease_grant(60))
    (first,) = store.sent
    await incarnation(store, "second")._join(await store.lease_grant(60))
    assert await member(store) == b"second"
    assert not (await MemoryStore.commit(store, first)).ok
    assert await member(store) == b"second"


async def test_a_join_is_tried_again_when_an_old_one_comes_between() -> None:
    late = [b"first"]

    class Overtaken(MemoryStore):
        async def commit(self, txn: Txn) -> TxnResult:
            if late:
                await super().commit(Txn(ops=(Put(MEMBER, late.pop()),)))
            return await super().commit(txn)

    store = Overtaken()
    await incarnation(store, "second")._join(await store.lease_grant(60))
    assert await member(store) == b"second"
