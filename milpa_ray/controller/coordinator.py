"""The coordinator: the leader's duties. One leads at a time; others wait for its lease to end.

It seats the shards in the map, launches and terminates instances, polls the cloud, keeps its firewall, collects garbage
and compacts the store. What it decides is planned in ``planner``; the duties are in modules of their own.
"""

import asyncio
import logging
from typing import Any

from milpa_ray.controller.cloud_duties import CloudDuties
from milpa_ray.controller.collector import Collector
from milpa_ray.controller.committing import Deposed, Lease
from milpa_ray.controller.deps import CoordinatorDeps
from milpa_ray.controller.firewall import FirewallDuty
from milpa_ray.controller.identifiers import make_uuid
from milpa_ray.controller.leadership import Leadership, keep_seated
from milpa_ray.controller.name_hold import NameHold
from milpa_ray.controller.pacing import Backoff
from milpa_ray.controller.trimmer import Trimmer
from milpa_ray.controller.view import KeyView
from milpa_ray.errors import MilpaError, first_cause
from milpa_ray.keys import prefix_end
from milpa_ray.planner.snapshot import Versioned
from milpa_ray.store.compaction import Compactor

log = logging.getLogger(__name__)


class Coordinator:
    """A candidate that leads when it can."""

    def __init__(self, deps: CoordinatorDeps) -> None:
        self._deps = deps
        self._leadership: Leadership | None = None
        self._duties: CloudDuties | None = None
        self._collector: Collector | None = None
        self._firewall: FirewallDuty | None = None
        self._name: NameHold | None = None

    async def run(self) -> None:
        """Campaigns and leads for ever; the outermost loop, and the only one that catches everything."""
        backoff = Backoff(self._deps.rng, self._deps.limits.retry_first_s, self._deps.limits.lease_ttl_s)
        while True:
            try:
                await self._live(backoff)
            except* (Deposed, MilpaError) as group:
                log.warning("coordinator: %s; starting anew", first_cause(group))
            except* Exception:
                log.exception("coordinator failed; starting anew")
            await backoff.sleep()

    async def _live(self, backoff: Backoff) -> None:
        """One incarnation: campaign, lead, until the lease is lost or another leads."""
        deps = self._deps
        leadership = Leadership(deps.store, deps.keys, make_uuid(deps.rng))
        lease = deps.lease()
        try:
            lease_id = await lease.start()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(until_lost(lease))
                cluster_uuid = await leadership.campaign(lease_id, make_uuid(deps.rng))
                self._leadership = leadership
                backoff.reset()
                await self._lead(leadership, cluster_uuid)
        finally:
            self._leadership = None
            self._duties = None
            self._collector = None
            self._firewall = None
            self._name = None
            await lease.stop()

    async def _lead(self, leadership: Leadership, cluster_uuid: str) -> None:
        deps = self._deps
        members: dict[str, str] = {}
        changed = asyncio.Event()
        prefix = deps.keys.prefix("member")

        def on_member(key: str, _before: Versioned[str] | None, after: Versioned[str] | None) -> None:
            if after is None:
                members.pop(key.removeprefix(prefix), None)
            else:
                members[key.removeprefix(prefix)] = after.obj
            changed.set()

        view: KeyView[str] = KeyView(
            deps.store,
            (prefix, prefix_end(prefix)),
            lambda _key, value: value.decode(),
            on_member,
            Backoff(deps.rng, deps.limits.retry_first_s, deps.limits.lease_ttl_s),
        )
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(view.run())
            tasks.create_task(self._serve_cloud(leadership, cluster_uuid))
            tasks.create_task(Trimmer(deps, leadership).run())
            tasks.create_task(Compactor(deps.store).run())
            await view.synced.wait()
            tasks.create_task(keep_seated(leadership, members, changed, deps.rng, deps.limits))

    async def _serve_cloud(self, leadership: Leadership, cluster_uuid: str) -> None:
        """All duties that call the cloud; begun once the cluster's name is ours there."""
        deps = self._deps
        async with asyncio.TaskGroup() as tasks:
            if deps.name_lock is not None:
                self._name = hold = NameHold(deps, deps.name_lock, cluster_uuid)
                await hold.take()
                tasks.create_task(hold.keep())
            self._duties = CloudDuties(deps, leadership, cluster_uuid)
            self._collector = Collector(deps, leadership, cluster_uuid)
            tasks.create_task(self._duties.run())
            tasks.create_task(self._collector.run())
            if deps.firewall is not None:
                self._firewall = FirewallDuty(deps, leadership, deps.firewall)
                tasks.create_task(self._firewall.run())

    def dump(self) -> dict[str, Any]:
        """State for people who debug; no secrets."""
        leadership = self._leadership
        if leadership is None:
            return {"leads": False}
        return {
            "leads": True,
            "incarnation": leadership.incarnation,
            "token": [leadership.token.term, leadership.token.revision],
            "shards": [{"id": e.id, "slots": [e.low, e.high]} for e in leadership.map.shards],
            "cloud": self._duties.dump() if self._duties is not None else None,
            "garbage": self._collector.dump() if self._collector is not None else None,
            "firewall": self._firewall.dump() if self._firewall is not None else None,
            "trouble": [
                *(self._name.trouble.dump() if self._name is not None else ()),
                *(self._duties.trouble.dump() if self._duties is not None else ()),
            ],
        }


async def until_lost(lease: Lease) -> None:
    """Raises ``Deposed`` once the lease can no longer be relied on."""
    await lease.lost.wait()
    raise Deposed("its lease is lost")
