"""Which API servers there are: each enters its name in the store before it acknowledges its first write.

A server that finds itself alone may answer reads from a cache that is a little old (``staleness``), since whatever was
acknowledged was acknowledged by itself. So one that joins others keeps its first write back for ``MAX_AGE_S``: by then
no cache that still counts as recent lacks its entry. The entry of a server that died stays; a server of that name takes
it over, and until then the others only ask the store for every read.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

from milpa_ray.errors import MilpaError
from milpa_ray.keys import Keys, prefix_end
from milpa_ray.server.background import Background
from milpa_ray.server.cache import WatchCache
from milpa_ray.store.port import Delete, Put, Store, Txn

MAX_AGE_S = 1.0
"""Most that a cache may be behind the store and still answer a read."""
RETRY_S = 0.2
KIND = "apiserver"

T = TypeVar("T")
log = logging.getLogger(__name__)


class Peers:
    """``name`` is the server's own, unique and lasting. Call ``start`` in a running event loop, and ``stop`` at the
    end. ``entered`` is set once writes may be acknowledged."""

    def __init__(self, store: Store, keys: Keys, cache: WatchCache, name: str) -> None:
        self._store = store
        self._keys = keys
        self._cache = cache
        self._name = name
        self._background = Background(self._enter, "enter")
        self.entered = asyncio.Event()

    def start(self) -> None:
        self._background.start()

    async def stop(self) -> None:
        """Takes the entry away, if the store can be reached; nothing may be acknowledged any more."""
        if not await self._background.stop():
            return
        if self.entered.is_set():
            with contextlib.suppress(MilpaError):
                await self._store.commit(Txn(ops=(Delete(self._keys.other(KIND, self._name)),)))

    @property
    def alone(self) -> bool:
        """Whether the cache knows of this server and of no other."""
        return [item.name for item in self._cache.items(KIND)] == [self._name]

    async def _enter(self) -> None:
        key = self._keys.other(KIND, self._name)
        there = await _until_done(partial(self._store.get, key))
        if there is None:
            await _until_done(partial(self._store.commit, Txn(ops=(Put(key, b"{}"),))))
            prefix = self._keys.prefix(KIND)
            found = await _until_done(partial(self._store.scan, prefix, prefix_end(prefix), limit=2))
            if len(found.entries) > 1:
                await asyncio.sleep(MAX_AGE_S)
        self.entered.set()


async def _until_done(call: Callable[[], Awaitable[T]]) -> T:
    while True:
        try:
            return await call()
        except MilpaError as error:
            log.warning("entering this API server's name: %s; trying again", error)
            await asyncio.sleep(RETRY_S)
