"""What the coordinator does with the cloud: launches in batches, terminations, and the poll of all instances.

Only the leader calls the cloud, and only for records in the store: a batch is committed with its complete call before
the call is made, and the same call is made again after a lost answer or by the next leader. An error of the cloud's API
changes no record; only its word that an instance is gone, or that it has no capacity, does.
"""

import asyncio
import logging
from functools import partial
from typing import Any

from milpa_ray.api.meta import ObjectReference
from milpa_ray.api.node import Node, NodePhase
from milpa_ray.controller.batches import Batches
from milpa_ray.controller.capacity import capacity_key, decode_capacity, given_back, taken_back_put
from milpa_ray.controller.committing import commit_fenced
from milpa_ray.controller.deps import CoordinatorDeps
from milpa_ray.controller.labels import Labels
from milpa_ray.controller.leadership import Leadership
from milpa_ray.controller.pacing import Backoff, persist
from milpa_ray.controller.trouble import Trouble
from milpa_ray.controller.view import KeyView
from milpa_ray.controller.volumes import VolumeGrowth
from milpa_ray.errors import MilpaError
from milpa_ray.keys import prefix_end
from milpa_ray.planner.fullness import FullRecord
from milpa_ray.planner.interruption import interrupted
from milpa_ray.planner.launches import (
    WITH_INSTANCE,
    Sighting,
    instance_news,
    not_launched,
    note_missing,
    terminated,
)
from milpa_ray.planner.snapshot import Versioned
from milpa_ray.ports import InstanceState
from milpa_ray.store.group import GroupOutcome, Verdict, WriteGroup
from milpa_ray.store.port import Compare, Delete, Op, Put

log = logging.getLogger(__name__)

TERMINATE_MOST = 500
"""Instances of one terminate call; EC2 takes 1,000."""
TERMINATE_AGAIN_S = 30.0
"""A node that is still Terminating so long after the call is terminated again."""
TERMINATE_RETRY_S = 1.0
"""Pause after a terminate call that failed; EC2 allows 5 a second."""
ENDING_POLL_S = 1.0
"""Interval of the poll while instances are ending: their proof is awaited."""


class CloudDuties:
    """Runs while its leadership lasts."""

    def __init__(self, deps: CoordinatorDeps, leadership: Leadership, cluster_uuid: str) -> None:
        self._deps = deps
        self._leadership = leadership
        self._nodes: dict[str, Versioned[Node]] = {}
        self._by_phase: dict[NodePhase, dict[str, None]] = {phase: {} for phase in NodePhase}
        self._changed = asyncio.Event()
        self._ending = asyncio.Event()
        self._poll_now = asyncio.Event()
        self._called: dict[str, float] = {}
        self._missing: dict[str, Sighting] = {}
        self._taken_back: list[Node] = []
        self._instances = 0
        self.trouble = Trouble(deps.clock, "listing the instances")
        objects = deps.keys.objects
        self._view: KeyView[Node] = KeyView(
            deps.store, (objects, prefix_end(objects)), self._decode, self._on_node, self._backoff()
        )
        capacity = deps.keys.prefix("capacity")
        self._full: KeyView[FullRecord] = KeyView(
            deps.store, (capacity, prefix_end(capacity)), decode_capacity, lambda *_: None, self._backoff()
        )
        self._labels = Labels(deps, leadership) if deps.label_instances else None
        self._batches = Batches(deps, leadership, cluster_uuid, self.commit, self._changed)
        self._growth = VolumeGrowth(deps, leadership, self._save)

    def _backoff(self) -> Backoff:
        return Backoff(self._deps.rng, self._deps.limits.retry_first_s, self._deps.limits.retry_max_s)

    # ------------------------------------------------------------ view

    def _decode(self, key: str, value: bytes) -> Node | None:
        parsed = self._deps.keys.parse(key)
        return Node.from_json(value) if parsed is not None and parsed.kind == "node" else None

    def _on_node(self, _key: str, before: Versioned[Node] | None, after: Versioned[Node] | None) -> None:
        if before is not None:
            self._by_phase[before.obj.status.phase].pop(before.obj.name, None)
            self._nodes.pop(before.obj.name, None)
        if after is not None:
            self._by_phase[after.obj.status.phase][after.obj.name] = None
            self._nodes[after.obj.name] = after
            if after.obj.status.phase == NodePhase.CREATING:
                self._changed.set()
            elif after.obj.status.phase == NodePhase.TERMINATING:
                self._ending.set()
            if interrupted(after.obj) and (before is None or not interrupted(before.obj)):
                self._taken_back.append(after.obj)
                self._changed.set()
        elif before is not None:
            self._called.pop(before.obj.name, None)
        node = after or before
        if node is not None:
            self._growth.follow(node.obj.name, after)

    def _in(self, phase: NodePhase) -> list[Versioned[Node]]:
        return [self._nodes[name] for name in self._by_phase[phase]]

    # ------------------------------------------------------------ commits

    async def commit(self, groups: list[WriteGroup], nodes: list[list[tuple[str, Node]]]) -> list[GroupOutcome]:
        """Commits under the leader's token. ``nodes`` lists, per group, the node records it writes (key, object), which
        are taken over when it is committed. Afterwards whatever is not is read again.

        Raises:
            Deposed: another coordinator leads.
        """
        leadership = self._leadership
        with self._view.writing(_values(groups, nodes)):
            async with leadership.writing:
                outcomes = await commit_fenced(self._deps.store, self._deps.keys.map, leadership.token, groups)
                if any(outcome.verdict != Verdict.COMMITTED for outcome in outcomes):
                    await persist(leadership.refresh, self._backoff(), "reading the map")
            for outcome, group, written in zip(outcomes, groups, nodes, strict=True):
                if outcome.verdict == Verdict.COMMITTED:
                    for key, node in written:
                        self._view.apply(key, node, outcome.revision)
                else:
                    keys = {c.key for c in group.compares} & self._view.items.keys()
                    for key in sorted(keys):
                        await persist(partial(self._view.reread, key), self._backoff(), f"reading {key}")
        return outcomes

    async def _save(self, changes: list[tuple[Versioned[Node], Node]]) -> None:
        """Commits changed node records, each by itself, and tells the events of those that ended."""
        if not changes:
            return
        groups = [WriteGroup((Compare(old.key, old.revision),), _puts([(old.key, new)])) for old, new in changes]
        outcomes = await self.commit(groups, [[(old.key, new)] for old, new in changes])
        ended = [
            new
            for (old, new), outcome in zip(changes, outcomes, strict=True)
            if outcome.verdict == Verdict.COMMITTED and new.status.phase == NodePhase.TERMINATED != old.obj.status.phase
        ]
        for node in ended:
            self._record(node, "node-terminated", node.status.message)
        await self._forget_full(ended)

    async def _forget_full(self, ended: list[Node]) -> None:
        """An instance that has ended leaves room for one of its kind, so that a pod which waits for it need not wait
        until the memory of the failed launch fades. Should the room be gone again, that costs one launch that fails."""
        gone = [node for node in ended if node.status.instance_id]
        back = {capacity_key(self._deps.keys, record) for node in gone for record in given_back(node)}
        known = sorted(back & self._full.items.keys())
        if known:
            await self.commit([WriteGroup((), (Delete(key),)) for key in known], [[] for _ in known])

    async def _remember_taken_back(self) -> None:
        """Has choices avoid what the cloud takes back. Only a hint: when the store is away it is left out."""
        nodes, self._taken_back = self._taken_back, []
        if not nodes:
            return
        try:
            lease = await self._deps.store.lease_grant(self._deps.limits.capacity_memory_s)
        except MilpaError as error:
            log.warning("%d interrupted spot instances are not remembered: %s", len(nodes), error)
            return
        puts = {put.key: put for put in (taken_back_put(self._deps.keys, node, lease) for node in nodes)}
        await self.commit([WriteGroup((), (put,)) for put in puts.values()], [[] for _ in puts])

    def _record(self, node: Node, status: str, message: str = "") -> None:
        self._deps.recorder.record(ObjectReference(kind="Node", name=node.name, uid=node.uid), status, message)

    # ------------------------------------------------------------ duties

    async def run(self) -> None:
        """Does the duties until cancelled or deposed."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._view.run())
            tasks.create_task(self._full.run())
            tasks.create_task(self._batches.run())
            await self._view.synced.wait()
            await self._batches.synced()
            if self._labels is not None:
                tasks.create_task(self._labels.run())
            tasks.create_task(self._poll())
            tasks.create_task(self._terminating())
            tasks.create_task(self._growth.run())
            while True:
                self._changed.clear()
                await self._remember_taken_back()
                await self._end_unlaunched()
                await self._batches.step(self._in(NodePhase.CREATING), self._nodes)
                await self._changed.wait()

    async def _terminating(self) -> None:
        while True:
            self._ending.clear()
            await self._terminate()
            await self._ending.wait()

    async def _end_unlaunched(self) -> None:
        """Ends nodes that were wished away before their launch was even recorded."""
        now = self._deps.clock.now()
        ended = [
            node
            for node in self._in(NodePhase.CREATING)
            if node.obj.spec.terminate and not self._batches.holds(node.obj.name)
        ]
        await self._save([(node, not_launched(node.obj, "NotNeeded", "ended before launch", now)) for node in ended])

    async def _terminate(self) -> None:
        """Ends the instances of Terminating nodes, many at a time; the answers are proof where they say so."""
        at = self._deps.clock.monotonic()
        due = [
            node
            for node in self._in(NodePhase.TERMINATING)
            if node.obj.status.instance_id and at - self._called.get(node.obj.name, -1e9) >= TERMINATE_AGAIN_S
        ][:TERMINATE_MOST]
        if not due:
            return
        try:
            await self._leadership.check()
            states = await self._deps.compute.terminate([node.obj.status.instance_id for node in due])
        except MilpaError as error:
            log.warning("terminating %d instances: %s; trying again", len(due), error)
            asyncio.get_running_loop().call_later(TERMINATE_RETRY_S, self._ending.set)
            return
        for node in due:
            self._called[node.obj.name] = at
        now = self._deps.clock.now()
        gone = [n for n in due if states.get(n.obj.status.instance_id) == InstanceState.TERMINATED]
        await self._save([(node, terminated(node.obj, now, "its instance is terminated")) for node in gone])
        if len(gone) < len(due):
            self._poll_now.set()
        if len(due) == TERMINATE_MOST:
            self._ending.set()

    async def _poll(self) -> None:
        """Lists all instances now and then and brings the node records in line with what the cloud says."""
        limits = self._deps.limits
        while True:
            wait = ENDING_POLL_S if self._by_phase[NodePhase.TERMINATING] else limits.poll_interval_s
            try:
                async with asyncio.timeout(wait):
                    await self._poll_now.wait()
                await asyncio.sleep(ENDING_POLL_S)
            except TimeoutError:
                pass
            self._poll_now.clear()
            known = [node for phase in sorted(WITH_INSTANCE) for node in self._in(phase)]
            try:
                instances = {i.id: i for i in await self._deps.compute.list_instances()}
            except MilpaError as error:
                self.trouble.failed(error)
                log.warning("listing instances: %s", error)
                continue
            self.trouble.over()
            self._instances = len(instances)
            self._missing = note_missing(known, instances, self._missing, self._deps.clock.monotonic())
            await self._save(instance_news(known, instances, self._missing, self._deps.clock.now()))
            if self._labels is not None:
                self._labels.note(self._in(NodePhase.CLAIMED), instances)
            if self._by_phase[NodePhase.TERMINATING]:
                self._ending.set()

    def dump(self) -> dict[str, Any]:
        """State for people who debug."""
        return {
            "nodes": {str(phase): len(names) for phase, names in self._by_phase.items() if names},
            "instances": self._instances,
            "batches": self._batches.dump(),
        }


def _puts(written: list[tuple[str, Node]]) -> tuple[Op, ...]:
    return tuple(Put(key, node.to_json()) for key, node in written)


def _values(groups: list[WriteGroup], nodes: list[list[tuple[str, Node]]]) -> dict[str, tuple[bytes, Node]]:
    """What the groups put of ``nodes``, as bytes and as the object, by key."""
    values = {op.key: op.value for group in groups for op in group.ops if isinstance(op, Put)}
    return {key: (values[key], node) for written in nodes for key, node in written}
