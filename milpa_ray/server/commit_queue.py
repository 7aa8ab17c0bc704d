"""Gathers the writes of all calls into group commits, so that many small calls cost as little as one big one.

While one group commit is under way the next one fills. Nothing is waited for to fill it: a lone write goes at once.
The queue is bounded by its callers, who have a bounded number of writes in flight.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable

from milpa_ray.errors import MilpaError, Terminal
from milpa_ray.server.background import Background
from milpa_ray.store.group import GroupOutcome, Verdict, WriteGroup, group_commit
from milpa_ray.store.port import Store

MAX_GROUPS = 128
"""Most writes of one group commit: bounds how long the next one waits."""

log = logging.getLogger(__name__)

Told = Callable[[str, int], None]
Pending = tuple[WriteGroup, "asyncio.Future[GroupOutcome]"]


class CommitQueue:
    """Call ``start`` in a running event loop, and ``stop`` at the end. Nothing is committed
    before ``may_begin``. ``told`` gets (key, revision) of what a
    caller is going to learn: the keys that were written, or that a conflict was found at."""

    def __init__(self, store: Store, may_begin: asyncio.Event, told: Told = lambda _key, _revision: None) -> None:
        self._store = store
        self._may_begin = may_begin
        self._told = told
        self._pending: deque[Pending] = deque()
        self._wake = asyncio.Event()
        self._background = Background(self._run, "commit queue")

    def start(self) -> None:
        self._background.start()

    async def stop(self) -> None:
        """Ends; what is still queued is answered as not done."""
        await self._background.stop()
        for _, future in self._pending:
            if not future.done():
                future.set_result(GroupOutcome(Verdict.NOT_DONE, error=Terminal("the API server is stopping")))
        self._pending.clear()

    async def commit(self, group: WriteGroup) -> GroupOutcome:
        """Commits one write. The caller has checked that it fits etcd's limits.

        A caller that is cancelled does not take its write back.
        """
        future: asyncio.Future[GroupOutcome] = asyncio.get_running_loop().create_future()
        self._pending.append((group, future))
        self._wake.set()
        return await future

    async def _run(self) -> None:
        await self._may_begin.wait()
        while True:
            await self._wake.wait()
            taken = [self._pending.popleft() for _ in range(min(MAX_GROUPS, len(self._pending)))]
            if not taken:
                self._wake.clear()
                continue
            try:
                outcomes = await group_commit(self._store, [group for group, _ in taken], None)
            except (MilpaError, ValueError) as error:
                log.exception("a group commit failed")
                outcomes = [GroupOutcome(Verdict.NOT_DONE, error=Terminal(str(error)))] * len(taken)
            except asyncio.CancelledError:
                self._pending.extendleft(reversed(taken))
                raise
            for (group, future), outcome in zip(taken, outcomes, strict=True):
                if outcome.verdict in (Verdict.COMMITTED, Verdict.CONFLICT):
                    for part in (*group.ops, *group.compares):
                        self._told(part.key, outcome.revision)
                if not future.done():
                    future.set_result(outcome)
