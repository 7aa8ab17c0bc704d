"""Keeping the store's history short and its space free. One of these runs at the leader.

It compacts on its own instead of by etcd's auto-compaction, so that the same holds for an external etcd that others
configured, and so that watchers know how long they may be away.
"""

import asyncio
import logging
from typing import Protocol, runtime_checkable

from milpa_ray.errors import Compacted, MilpaError, StoreFull
from milpa_ray.store.port import Store

HISTORY_S = 300.0
"""How much history is kept: a watcher away for longer lists anew."""
SPACE_CHECK_S = 30.0

_log = logging.getLogger(__name__)


@runtime_checkable
class SpaceKeeper(Protocol):
    """What a store with a space quota offers besides."""

    async def is_full(self) -> bool:
        """Whether the no-space alarm is raised."""

    async def relieve(self) -> None:
        """Gives compacted space back and ends the alarm."""


async def relieve_space(store: Store) -> bool:
    """Makes room if the store has none: forgets all history, defragments, ends the alarm. Whether that was needed.

    Anyone may call it, the leader or not: a full store grants no lease, so nobody could become the leader.

    Raises:
        StoreUnavailable: an endpoint did not answer.
    """
    if not isinstance(store, SpaceKeeper) or not await store.is_full():
        return False
    _log.warning("etcd has reached its space quota: compacting and defragmenting")
    await _compact(store, await store.revision())
    await store.relieve()
    if await store.is_full():
        raise StoreFull("etcd has reached its space quota and compaction frees too little: raise the quota")
    return True


class Compactor:
    """Compacts ``store`` so that between one and two times ``history_s`` seconds of history stay."""

    def __init__(self, store: Store, *, history_s: float = HISTORY_S, space_check_s: float = SPACE_CHECK_S) -> None:
        self._store = store
        self._history_s = history_s
        self._space_check_s = min(space_check_s, history_s)

    async def run(self) -> None:
        """Runs until cancelled. Errors of the store are logged, and the next turn tries again."""
        loop = asyncio.get_running_loop()
        old, due = 0, loop.time() + self._history_s
        while True:
            try:
                if not old:
                    old = await self._store.revision()
                await relieve_space(self._store)
                if loop.time() >= due:
                    now = await self._store.revision()
                    await _compact(self._store, old)
                    old, due = now, loop.time() + self._history_s
            except MilpaError as error:
                _log.warning("compaction: %s", error)
            await asyncio.sleep(self._space_check_s)


async def _compact(store: Store, revision: int) -> None:
    try:
        await store.compact(revision)
    except Compacted:
        return  # somebody else was faster, or nothing has changed since
