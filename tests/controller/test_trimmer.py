"""Events and saved logs stay bounded."""

import random

from milpa_ray.clock import SystemClock
from milpa_ray.controller.deps import CoordinatorDeps
from milpa_ray.controller.leadership import Leadership
from milpa_ray.controller.trimmer import Trimmer
from milpa_ray.keys import Keys, prefix_end
from milpa_ray.limits import Limits
from milpa_ray.ports import Token
from milpa_ray.store.memory import MemoryStore
from milpa_ray.store.port import Put, Txn


async def test_the_oldest_go_first() -> None:
    store, keys = MemoryStore(), Keys("c")
    leadership = Leadership(store, keys, "me")
    result = await store.commit(Txn(ops=(Put(keys.map, b"{}"),)))
    leadership.token = Token(1, result.revision)
    for name in ("b", "c", "a", "d"):
        await store.commit(Txn(ops=(Put(keys.other("LogFile", name), b"{}"),)))
    deps = CoordinatorDeps(
        store,
        keys,
        SystemClock(),
        random.Random(1),
        Limits(),
        lease=None,  # type: ignore[arg-type]
        compute=None,  # type: ignore[arg-type]
        recorder=None,  # type: ignore[arg-type]
    )
    assert await Trimmer(deps, leadership).trim("logfile", 2) == 2
    prefix = keys.prefix("logfile")
    left = await store.scan(prefix, prefix_end(prefix))
    assert [entry.key.removeprefix(prefix) for entry in left.entries] == ["a", "d"]
    assert await Trimmer(deps, leadership).trim("logfile", 2) == 0
