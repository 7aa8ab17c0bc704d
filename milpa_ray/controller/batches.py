"""Launch batches: recorded, called, and their outcome recorded.

A batch's record holds the complete call and the ordered nodes. It is removed in the transaction that gives its nodes
their instances (or their end); until then every leader makes the same call again with the same token.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

from milpa_ray.api.meta import ObjectReference
from milpa_ray.api.node import Node, NodePhase
from milpa_ray.controller.capacity import capacity_put
from milpa_ray.controller.committing import Deposed
from milpa_ray.controller.deps import CoordinatorDeps
from milpa_ray.controller.identifiers import make_uuid
from milpa_ray.controller.leadership import Leadership
from milpa_ray.controller.pacing import Backoff, persist
from milpa_ray.controller.view import KeyView
from milpa_ray.errors import LaunchRejected, MilpaError, NoCapacity, Terminal
from milpa_ray.keys import prefix_end
from milpa_ray.planner.garbage import BATCH_TAG, CLUSTER_TAG, UUID_TAG
from milpa_ray.planner.launches import Batch, LaunchGroup, launched, not_launched, plan_launches
from milpa_ray.planner.pods import LAUNCH_REJECTED
from milpa_ray.planner.snapshot import Versioned
from milpa_ray.ports import Instance, LaunchCall, bootstrap_identity
from milpa_ray.store.group import GroupOutcome, Verdict, WriteGroup
from milpa_ray.store.port import Compare, Delete, Op, Put
from milpa_ray.userdata import UserData

log = logging.getLogger(__name__)

CALLS_IN_FLIGHT = 4
"""Launch calls under way. While all are, waiting nodes gather into fuller batches."""

Commit = Callable[[list[WriteGroup], list[list[tuple[str, Node]]]], Awaitable[list[GroupOutcome]]]
Answer = Sequence[Instance] | Terminal
Opening = tuple[Batch, WriteGroup]


class Batches:
    """All open batches. ``commit`` writes under the leader's token; ``changed`` asks for another ``step``."""

    def __init__(
        self,
        deps: CoordinatorDeps,
        leadership: Leadership,
        cluster_uuid: str,
        commit: Commit,
        changed: asyncio.Event,
    ) -> None:
        self._deps = deps
        self._leadership = leadership
        self._cluster_uuid = cluster_uuid
        self._commit = commit
        self._changed = changed
        self._prefix = deps.keys.prefix("batch")
        self._of_node: dict[str, str] = {}
        self._answers: dict[str, Answer] = {}
        self._calls: dict[str, asyncio.Task[None]] = {}
        self._unsure: list[Opening] = []
        self._view: KeyView[Batch] = KeyView(
            deps.store,
            (self._prefix, prefix_end(self._prefix)),
            lambda _key, value: Batch.from_json(value),
            self._on_batch,
            self._backoff(),
        )

    def _backoff(self) -> Backoff:
        return Backoff(self._deps.rng, self._deps.limits.retry_first_s, self._deps.limits.retry_max_s)

    def _on_batch(self, _key: str, before: Versioned[Batch] | None, after: Versioned[Batch] | None) -> None:
        if before is not None:
            self._let_go(before.obj)
        if after is not None:
            self._of_node.update(dict.fromkeys(after.obj.nodes, after.obj.token))
        self._changed.set()

    def holds(self, node_name: str) -> bool:
        """Whether the node is in an open batch, or in one that may have been opened."""
        return node_name in self._of_node

    async def synced(self) -> None:
        await self._view.synced.wait()

    async def run(self) -> None:
        """Follows the records until cancelled; ends the calls under way then."""
        try:
            await self._view.run()
        finally:
            for call in self._calls.values():
                call.cancel()

    async def step(self, creating: Sequence[Versioned[Node]], nodes: Mapping[str, Versioned[Node]]) -> None:
        """Records new batches, makes the calls of all recorded ones, and records the outcomes.

        Raises:
            Deposed
        """
        room = CALLS_IN_FLIGHT - len(self._calls)
        if self._unsure:
            await self._record(self._unsure)
        elif room > 0:
            waiting = [n for n in creating if not n.obj.spec.terminate and n.obj.name not in self._of_node]
            await self._open(plan_launches(waiting, self._deps.limits.launch_batch)[:room])
        for item in list(self._view.items.values()):
            token = item.obj.token
            if token in self._answers:
                await self._close(item, self._answers[token], nodes)
            elif token not in self._calls and len(self._calls) < CALLS_IN_FLIGHT:
                self._calls[token] = asyncio.create_task(self._call(item.obj), name=f"launch-{token}")

    # ------------------------------------------------------------ opening

    async def _open(self, groups: list[LaunchGroup]) -> None:
        if not groups:
            return
        batches = [Batch(self._launch_call(group), tuple(n.obj.name for n in group.nodes)) for group in groups]
        writes = [
            WriteGroup(
                (Compare(self._prefix + b.token, 0), *(Compare(n.key, n.revision) for n in group.nodes)),
                (Put(self._prefix + b.token, b.to_json()),),
            )
            for b, group in zip(batches, groups, strict=True)
        ]
        for batch in batches:
            self._of_node.update(dict.fromkeys(batch.nodes, batch.token))
        await self._record(list(zip(batches, writes, strict=True)))

    async def _record(self, openings: list[Opening]) -> None:
        """Commits openings. One that may still arrive is kept as it is, and so are its nodes: were they put into
        another batch, both would launch them."""
        puts = {op.key: (op.value, batch) for batch, write in openings for op in write.ops if isinstance(op, Put)}
        self._unsure = []
        with self._view.writing(puts):
            outcomes = await self._commit([write for _, write in openings], [[] for _ in openings])
            for opening, key, outcome in zip(openings, puts, outcomes, strict=True):
                if outcome.verdict == Verdict.COMMITTED:
                    self._view.apply(key, opening[0], outcome.revision)
                else:
                    await self._not_recorded(opening, key, outcome.verdict)

    async def _not_recorded(self, opening: Opening, key: str, verdict: Verdict) -> None:
        """After a conflict, or when the fence has moved, what was sent before cannot arrive any more either."""
        asyncio.get_running_loop().call_later(self._deps.limits.retry_first_s, self._changed.set)
        await persist(partial(self._view.reread, key), self._backoff(), f"reading {key}")
        if key in self._view.items:
            return  # It did arrive.
        batch = opening[0]
        if verdict in (Verdict.CONFLICT, Verdict.FENCED):
            self._let_go(batch)
        else:
            self._unsure.append(opening)

    def _let_go(self, batch: Batch) -> None:
        for name in batch.nodes:
            if self._of_node.get(name) == batch.token:
                del self._of_node[name]

    def _launch_call(self, group: LaunchGroup) -> LaunchCall:
        token = make_uuid(self._deps.rng)
        pair = None
        if self._deps.authority is not None:
            pair = self._deps.authority.issue([bootstrap_identity(token)], server=True, client=False)
        data = UserData(
            cluster=self._deps.keys.cluster,
            batch=token,
            ca=self._deps.authority.pair.cert.decode() if self._deps.authority is not None else "",
            cert=pair.cert.decode() if pair is not None else "",
            key=pair.key.decode() if pair is not None else "",
            cloud_init=self._deps.cloud_init(),
        )
        return LaunchCall(
            token=token,
            count=len(group.nodes),
            instance_type=group.instance_type,
            zone=group.zone,
            spot=group.spot,
            image=group.image,
            private_ip_only=group.private_ip_only,
            user_data=data.pack(),
            tags={CLUSTER_TAG: self._deps.keys.cluster, UUID_TAG: self._cluster_uuid, BATCH_TAG: token},
        )

    # ------------------------------------------------------------ calling

    async def _call(self, batch: Batch) -> None:
        """Makes the call until it is answered for good."""
        backoff = self._backoff()
        try:
            while True:
                try:
                    await self._leadership.check()
                    self._answers[batch.token] = await self._deps.compute.launch(batch.call)
                    return
                except (NoCapacity, LaunchRejected) as error:
                    self._answers[batch.token] = error
                    return
                except Deposed:
                    return  # Whoever leads now makes the recorded call.
                except MilpaError as error:
                    log.warning("launch of %d %s: %s; trying again", batch.call.count, batch.call.instance_type, error)
                    await backoff.sleep()
        finally:
            self._calls.pop(batch.token, None)
            self._changed.set()

    # ------------------------------------------------------------ closing

    async def _close(self, item: Versioned[Batch], answer: Answer, nodes: Mapping[str, Versioned[Node]]) -> None:
        batch = item.obj
        now = self._deps.clock.now()
        olds = [nodes.get(name) for name in batch.nodes]
        changes: list[tuple[Versioned[Node], Node]] = []
        extra: list[Op] = []
        if isinstance(answer, Terminal):
            reason = answer.code if isinstance(answer, NoCapacity) else LAUNCH_REJECTED
            changes = [
                (old, not_launched(old.obj, reason, str(answer), now))
                for old in olds
                if old is not None and old.obj.status.phase == NodePhase.CREATING
            ]
            if isinstance(answer, NoCapacity):
                extra.append(await self._capacity(batch.call))
        else:
            for instance in answer:
                old = olds[instance.launch_index] if instance.launch_index < len(olds) else None
                if old is not None and old.obj.status.phase == NodePhase.CREATING:
                    changes.append((old, launched(old.obj, instance, batch.token, now)))
        group = WriteGroup(
            (Compare(item.key, item.revision), *(Compare(old.key, old.revision) for old, _ in changes)),
            (Delete(item.key), *(Put(old.key, new.to_json()) for old, new in changes), *extra),
        )
        outcome = (await self._commit([group], [[(old.key, new) for old, new in changes]]))[0]
        if outcome.verdict != Verdict.COMMITTED:
            await self._view.reread(item.key)
            asyncio.get_running_loop().call_later(self._deps.limits.retry_first_s, self._changed.set)
            return
        self._view.remove(item.key, outcome.revision)
        self._answers.pop(batch.token, None)
        if isinstance(answer, Terminal):
            for _, node in changes:
                involved = ObjectReference(kind="Node", name=node.name, uid=node.uid)
                self._deps.recorder.record(involved, "node-terminated", str(answer))

    async def _capacity(self, call: LaunchCall) -> Put:
        lease = await self._deps.store.lease_grant(self._deps.limits.capacity_memory_s)
        return capacity_put(self._deps.keys, call, lease)

    def dump(self) -> dict[str, Any]:
        """State for people who debug."""
        return {"open": len(self._view.items), "calls": len(self._calls), "nodes": len(self._of_node)}
