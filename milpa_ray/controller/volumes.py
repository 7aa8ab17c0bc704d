"""Has the cloud grow root volumes whose nodes' records ask for more than they have, and records what came of it.

One call at a time: volumes grow when a standby node is dispatched to, which is seldom. The call is idempotent, so it is
simply made again after a lost answer or by the next leader. The file system inside is the agent's.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from milpa_ray.api.meta import ObjectReference
from milpa_ray.api.node import Node
from milpa_ray.controller.deps import CoordinatorDeps
from milpa_ray.controller.leadership import Leadership
from milpa_ray.controller.pacing import Backoff
from milpa_ray.errors import MilpaError, Terminal
from milpa_ray.planner.snapshot import Versioned
from milpa_ray.planner.volumes import VOLUME_NOT_GROWN, growth_wanted

log = logging.getLogger(__name__)

Save = Callable[[list[tuple[Versioned[Node], Node]]], Awaitable[None]]


class VolumeGrowth:
    """``save`` commits changed node records under the leader's token; what could not be committed is read again, and
    comes back by ``follow``."""

    def __init__(self, deps: CoordinatorDeps, leadership: Leadership, save: Save) -> None:
        self._deps = deps
        self._leadership = leadership
        self._save = save
        self._wanted: dict[str, Versioned[Node]] = {}
        self._changed = asyncio.Event()

    def follow(self, name: str, node: Versioned[Node] | None) -> None:
        """The node's record is this now; None: it is gone."""
        if node is not None and growth_wanted(node.obj):
            self._wanted[name] = node
            self._changed.set()
        else:
            self._wanted.pop(name, None)

    async def run(self) -> None:
        """Grows what is wanted, until cancelled.

        Raises:
            Deposed
        """
        backoff = Backoff(self._deps.rng, self._deps.limits.retry_first_s, self._deps.limits.retry_max_s)
        while True:
            await self._changed.wait()
            self._changed.clear()
            for name in list(self._wanted):
                stored = self._wanted.get(name)
                if stored is not None:
                    await self._grow(stored)
            if self._wanted:
                await backoff.sleep()
                self._changed.set()
            else:
                backoff.reset()

    async def _grow(self, stored: Versioned[Node]) -> None:
        node, gib = stored.obj, growth_wanted(stored.obj)
        await self._leadership.check()
        changes: dict[str, object] = {"volume_gib": gib}
        status, message = "node-volume-grown", f"its root volume grows to {gib} GiB"
        try:
            await self._deps.compute.grow_volume(node.status.instance_id, gib)
        except Terminal as error:
            message = f"its root volume could not be grown to {gib} GiB: {error}"
            changes, status = {"reason": VOLUME_NOT_GROWN, "message": message}, "node-volume-not-grown"
        except MilpaError as error:
            log.warning("growing the root volume of node %s: %s; trying again", node.name, error)
            return
        involved = ObjectReference(kind="Node", name=node.name, uid=node.uid)
        self._deps.recorder.record(involved, status, message)
        new = node.model_copy(update={"status": node.status.model_copy(update=changes)})
        await self._save([(stored, new)])
