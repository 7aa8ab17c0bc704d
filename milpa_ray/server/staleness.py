"""Reads of one object that stay quick while the store stalls.

Every read first tries to be linearizable: it asks the store how far it is. A store that writes thousands of objects
answers that late now and then (etcd answers no read while its backend commits). A read that has waited ``PATIENCE_S``
is then answered from the cache, if the cache is known to be at most ``MAX_AGE_S`` old and has every write of that
object that this server has acknowledged. So a client that keeps to one server always reads its own writes, and what it
reads never goes back; a write acknowledged by another server may be missed for ``MAX_AGE_S`` while the store stalls.
Writes are not concerned: they compare revisions.
"""

import asyncio
import contextlib
import logging

from milpa_ray.errors import MilpaError
from milpa_ray.server.cache import WatchCache
from milpa_ray.server.items import Item

PATIENCE_S = 0.04
MAX_AGE_S = 1.0
CONFIRM_S = 0.2
"""While objects change, the cache's age is looked at this often, so that it is known when it is asked for."""

log = logging.getLogger(__name__)


class QuickReads:
    """Call ``start`` in a running event loop, and ``stop`` at the end."""

    def __init__(self, cache: WatchCache) -> None:
        self._cache = cache
        self._unseen: dict[str, int] = {}
        """Revision of the last acknowledged write of each key that the cache may not have yet. Bounded by the writes
        that etcd's watch is behind."""
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._keep_confirmed(), name="cache age")

    async def stop(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

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
        return age_s <= MAX_AGE_S and item.key not in self._unseen

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
