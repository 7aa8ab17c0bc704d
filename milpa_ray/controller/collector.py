"""Garbage collection of instances that no record knows. Careful: see ``planner.garbage`` for when it does nothing.

An instance is condemned in the store before it is terminated, under the leader's fence, so that a deposed leader
condemns nothing; the record goes when the cloud says that the instance is gone.
"""

import asyncio
import logging
from typing import Any

from milpa_ray.api.meta import ObjectReference
from milpa_ray.api.node import Node
from milpa_ray.controller.committing import commit_fenced
from milpa_ray.controller.deps import CoordinatorDeps
from milpa_ray.controller.leadership import Leadership
from milpa_ray.errors import MilpaError
from milpa_ray.keys import prefix_end
from milpa_ray.planner.garbage import GONE, GarbagePlan, Known, plan_garbage
from milpa_ray.ports import Instance
from milpa_ray.store.group import Verdict, WriteGroup
from milpa_ray.store.port import Compare, Delete, Put
from milpa_ray.store.reading import pages

log = logging.getLogger(__name__)


class Collector:
    """Runs while its leadership lasts."""

    def __init__(self, deps: CoordinatorDeps, leadership: Leadership, cluster_uuid: str) -> None:
        self._deps = deps
        self._leadership = leadership
        self._cluster_uuid = cluster_uuid
        self._plan = GarbagePlan()
        self._prefix = deps.keys.prefix("condemned")

    async def run(self) -> None:
        """Collects now and then until cancelled."""
        while True:
            await asyncio.sleep(self._deps.limits.gc_interval_s)
            try:
                await self._collect()
            except MilpaError as error:
                log.warning("garbage collection: %s; trying again later", error)

    async def _collect(self) -> None:
        limits = self._deps.limits
        # The cloud first, then the store: what was launched between the two is known to the store by then.
        instances = await self._deps.compute.list_instances()
        self._plan = plan_garbage(
            instances,
            await self._known(),
            self._plan.suspects,
            now_s=self._deps.clock.now().timestamp(),
            min_age_s=limits.gc_min_age_s,
            max_fraction=limits.gc_max_unknown_fraction,
        )
        self._tell()
        if self._plan.condemned:
            await self._condemn(self._plan.condemned)
        await self._forgive({i.id: i for i in instances})

    async def _known(self) -> Known:
        keys, store = self._deps.keys, self._deps.store
        ids: set[str] = set()
        async for page in pages(store, keys.objects, prefix_end(keys.objects)):
            for entry in page.entries:
                parsed = keys.parse(entry.key)
                if parsed is not None and parsed.kind == "node":
                    ids.add(Node.from_json(entry.value).status.instance_id)
        batches = keys.prefix("batch")
        tokens = set()
        async for page in pages(store, batches, prefix_end(batches)):
            tokens |= {entry.key.removeprefix(batches) for entry in page.entries}
        return Known(self._cluster_uuid, ids, tokens)

    def _tell(self) -> None:
        if self._plan.stopped:
            log.error("garbage collection: %s", self._plan.stopped)
            involved = ObjectReference(kind="Cluster", name=self._deps.keys.cluster, uid=self._cluster_uuid)
            self._deps.recorder.record(involved, "garbage-stopped", self._plan.stopped)
        if self._plan.foreign:
            log.warning(
                "instances of another cluster with our name, left alone: %s", ", ".join(self._plan.foreign[:20])
            )

    async def _condemn(self, ids: tuple[str, ...]) -> None:
        groups = [WriteGroup((), (Put(self._prefix + instance_id, b"{}"),)) for instance_id in ids]
        async with self._leadership.writing:
            outcomes = await commit_fenced(self._deps.store, self._deps.keys.map, self._leadership.token, groups)
        condemned = [i for i, outcome in zip(ids, outcomes, strict=True) if outcome.verdict == Verdict.COMMITTED]
        if condemned:
            log.warning("terminating %d instances that no record knows: %s", len(condemned), ", ".join(condemned[:20]))
            await self._deps.compute.terminate(condemned)

    async def _forgive(self, instances: dict[str, Instance]) -> None:
        """Ends condemned instances that still live, and drops the records of those that are gone."""
        async for page in pages(self._deps.store, self._prefix, prefix_end(self._prefix)):
            live = [
                id_
                for entry in page.entries
                if (id_ := entry.key.removeprefix(self._prefix)) in instances and instances[id_].state not in GONE
            ]
            if live:
                await self._deps.compute.terminate(live)
            groups = [
                WriteGroup((Compare(entry.key, entry.mod_revision),), (Delete(entry.key),))
                for entry in page.entries
                if entry.key.removeprefix(self._prefix) not in live
            ]
            async with self._leadership.writing:
                await commit_fenced(self._deps.store, self._deps.keys.map, self._leadership.token, groups)

    def dump(self) -> dict[str, Any]:
        """State for people who debug."""
        return {
            "suspects": sorted(self._plan.suspects),
            "foreign": list(self._plan.foreign),
            "stopped": self._plan.stopped,
        }
