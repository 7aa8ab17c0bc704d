"""Reads of one object that stay quick while the store stalls.

Every read first asks the store how far it is. A store that writes thousands of objects answers that late now and then:
etcd answers no read while its backend commits, which took 60 to 250 ms on a busy machine. A read that has waited
``PATIENCE_S`` is then answered from the cache, if that loses nothing that anyone was told: this server is the only one,
the cache is known to be at most ``MAX_AGE_S`` old, and it has every write of that object that this server has
acknowledged. Only what controllers wrote in the last moment may be missing. What is not in the cache is never said to
be missing without the store's word. Writes are not concerned: they compare revisions.
"""

import asyncio
import logging

from milpa_ray.errors import MilpaError
from milpa_ray.server.background import Background
from milpa_ray.server.cache import WatchCache
from milpa_ray.server.items import Item
from milpa_ray.server.peers import MAX_AGE_S, Peers

PATIENCE_S = 0.025
CONFIRM_S = 0.2
"""While objects change, the cache's age is looked at this often, so that it is known when it is asked for."""

log = logging.getLogger(__name__)


class QuickReads:
    """Call ``start`` in a running event loop, and ``stop`` at the end."""

    def __init__(self, cache: WatchCache, peers: Peers) -> None:
        self._cache = cache
        self._peers = peers
        self._unseen: dict[str, int] = {}
        """Revision of the last acknowledged write of each key that the cache may not have yet. Bounded by the writes
        that etcd's watch is behind."""
        self._background = Background(self._keep_confirmed, "cache age")

    def start(self) -> None:
        self._background.start()

    async def stop(self) -> None:
        await self._background.stop()

    def acknowledge(self, key: str, revision: int) -> None:
        """A caller is about to learn that ``key`` has changed or been found at this revision."""
        if revision > self._cache.revision:
            self._unseen[key] = max(revision, self._unseen.get(key, 0))

    async def get(self, kind: str, name: str) -> tuple[Item | None, int]:
        """The object and the revision of the state that it is from. ``kind`` in lower case.

        Raises:
            StoreUnavailable: see ``WatchCache.fresh``; only if the cache does not do.
        """
        fresh = asyncio.ensure_future(self._cache.fresh())
        try:
            await asyncio.wait([fresh], timeout=PATIENCE_S)
            if not fresh.done():
                item = self._cache.get(kind, name)
                if item is not None and self._does(item):
                    return item, self._cache.revision
            await fresh
            return self._cache.get(kind, name), self._cache.revision
        finally:
            fresh.cancel()

    def _does(self, item: Item) -> bool:
        """Whether the cache is good enough for this object."""
        self._forget_seen()
        age_s = asyncio.get_running_loop().time() - self._cache.current_at
        return age_s <= MAX_AGE_S and item.key not in self._unseen and self._peers.alone

    def _forget_seen(self) -> None:
        reached = self._cache.revision
        self._unseen = {key: revision for key, revision in self._unseen.items() if revision > reached}

    async def _keep_confirmed(self) -> None:
        moved = self._cache.moved
        while True:
            await moved.wait()
            moved.clear()
            try:
                await self._cache.confirm(MAX_AGE_S)
            except MilpaError as error:
                log.debug("the cache's age is not known: %s", error)
            self._forget_seen()
            await asyncio.sleep(CONFIRM_S)
