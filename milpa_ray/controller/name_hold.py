"""Keeps the hold on the cluster's name while leading, so that no second installation manages the same tags.

Only the word that another cluster has the name keeps the leader from the cloud. An error of the register does not: it
would stop a healthy cluster for the outage of a service that it does not need.
"""

import asyncio
import logging

from milpa_ray.api.meta import ObjectReference
from milpa_ray.controller.committing import Deposed
from milpa_ray.controller.deps import CoordinatorDeps
from milpa_ray.controller.trouble import Trouble
from milpa_ray.errors import MilpaError, NameTaken
from milpa_ray.ports import RENEW_NAME_S, NameLock

log = logging.getLogger(__name__)

PATIENCE_S = 10.0


class NameHold:
    """Runs while its leadership lasts. ``owner`` is the cluster's uuid."""

    def __init__(
        self,
        deps: CoordinatorDeps,
        lock: NameLock,
        owner: str,
        interval_s: float = RENEW_NAME_S,
        patience_s: float = PATIENCE_S,
    ) -> None:
        """``patience_s``: how long the register is waited for before all else begins without its answer."""
        self._deps = deps
        self._lock = lock
        self._owner = owner
        self._interval_s = interval_s
        self._patience_s = patience_s
        self.trouble = Trouble(deps.clock, "holding the cluster's name")

    async def take(self) -> None:
        """Waits while another cluster has the name."""
        while True:
            try:
                async with asyncio.timeout(self._patience_s):
                    await self._lock.hold(self._owner)
                self.trouble.over()
                return
            except NameTaken as error:
                self.trouble.failed(error)
                log.error("nothing is launched or terminated: %s", error)
                involved = ObjectReference(kind="Cluster", name=self._deps.keys.cluster, uid=self._owner)
                self._deps.recorder.record(involved, "cluster-name-taken", str(error))
                await asyncio.sleep(self._interval_s)
            except (MilpaError, TimeoutError) as error:
                self.trouble.failed(error)
                log.warning("holding the cluster's name: %s; going on without", str(error) or "no answer")
                return

    async def keep(self) -> None:
        """Renews the hold until cancelled.

        Raises:
            Deposed: another cluster has taken the name over.
        """
        while True:
            await asyncio.sleep(self._interval_s)
            try:
                await self._lock.hold(self._owner)
                self.trouble.over()
            except NameTaken as error:
                raise Deposed(str(error)) from error
            except MilpaError as error:
                self.trouble.failed(error)
                log.warning("holding the cluster's name: %s; trying again", error)
