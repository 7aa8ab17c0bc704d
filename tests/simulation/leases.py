"""Keeps a store lease alive by a task: the simulation's stand-in for the keeper thread of a real controller.

Like a real one it may be late to notice that its lease is gone, for example after a pause; what protects the store
then is the fence, not the lease.
"""

import asyncio

from milpa_ray.errors import StoreUnavailable
from milpa_ray.store.port import Store


class SimLease:
    """A ``Lease`` of the controllers."""

    def __init__(self, store: Store, ttl_s: int) -> None:
        self._store = store
        self._ttl_s = ttl_s
        self._id = 0
        self._task: asyncio.Task[None] | None = None
        self.lost = asyncio.Event()

    async def start(self) -> int:
        """Grants the lease and keeps it from now on. Raises ``StoreUnavailable``."""
        granted = asyncio.get_running_loop().time()
        self._id = await self._store.lease_grant(self._ttl_s)
        self._task = asyncio.create_task(self._keep(granted))
        return self._id

    async def stop(self) -> None:
        """Ends the lease at once; if the store does not answer it runs out by itself."""
        if self._task is not None:
            self._task.cancel()
            try:
                await self._store.lease_revoke(self._id)
            except StoreUnavailable:
                return

    async def _keep(self, renewed: float) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._ttl_s / 3)
            asked = loop.time()
            try:
                async with asyncio.timeout(self._ttl_s / 3):
                    left = await self._store.lease_keepalive(self._id)
            except (StoreUnavailable, TimeoutError):
                left = -1
            if left > 0:
                renewed = asked
            if left == 0 or loop.time() > renewed + self._ttl_s:
                self.lost.set()
                return
