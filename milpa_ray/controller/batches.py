"""Launch batches: recorded, called, and their outcome recorded.

A batch's record holds the complete call and the ordered nodes. It is removed in the transaction that gives its nodes
their instances (or their end); until then every leader makes the same call again with the same token. Nodes whose call
cannot be completed or is outdated stay Creating and get another one; an event at their pod says why they wait.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from milpa_ray.api.meta import ObjectReference
from milpa_ray.api.node import Node, NodePhase
from milpa_ray.controller.capacity import capacity_put
from milpa_ray.controller.committing import Deposed
from milpa_ray.controller.deps import CoordinatorDeps
from milpa_ray.controller.leadership import Leadership
from milpa_ray.controller.pacing import Backoff, persist
from milpa_ray.controller.preparing import Preparations, Prepared
from milpa_ray.controller.view import KeyView
from milpa_ray.errors import CloudThrottled, LaunchOutdated, LaunchRejected, MilpaError, NoCapacity, Terminal
from milpa_ray.keys import prefix_end
from milpa_ray.planner.launches import Batch, LaunchKind, launch_kind, launched, not_launched, plan_launches
from milpa_ray.planner.pods import LAUNCH_REJECTED
from milpa_ray.planner.snapshot import Versioned
from milpa_ray.ports import Instance, LaunchCall
from milpa_ray.store.group import GroupOutcome, Verdict, WriteGroup
from milpa_ray.store.port import Compare, Delete, Op, Put

log = logging.getLogger(__name__)

CALLS_IN_FLIGHT = 4
"""Launch calls in the making or under way. While all are, waiting nodes gather into fuller batches."""

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
        self._commit = commit
        self._changed = changed
        self._prefix = deps.keys.prefix("batch")
        self._of_node: dict[str, str] = {}
        self._answers: dict[str, Answer] = {}
        self._calls: dict[str, asyncio.Task[None]] = {}
        self._unsure: list[Opening] = []
        self._preparations = Preparations(deps, leadership, cluster_uuid, changed)
        self._troubles: dict[str, MilpaError] = {}
        self._told: dict[str, str] = {}
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
            self._let_go(before.obj.token, before.obj.nodes)
        if after is not None:
            self._of_node.update(dict.fromkeys(after.obj.nodes, after.obj.token))
        self._changed.set()

    def holds(self, node_name: str) -> bool:
        """Whether the node is in an open batch, in one that may have been opened, or in one in the making."""
        return node_name in self._of_node

    async def synced(self) -> None:
        await self._view.synced.wait()

    async def run(self) -> None:
        """Follows the records until cancelled; ends the calls under way then."""
        try:
            await self._view.run()
        finally:
            self._preparations.cancel()
            for call in self._calls.values():
                call.cancel()

    async def step(self, creating: Sequence[Versioned[Node]], nodes: Mapping[str, Versioned[Node]]) -> None:
        """Prepares and records new batches, makes the calls of all recorded ones, and records the outcomes.

        Raises:
            Deposed
        """
        names = [node.obj.name for node in creating]
        if self._unsure:
            await self._record(self._unsure)
        elif prepared := self._preparations.take():
            await self._open(prepared, nodes, self._waiting(names, nodes))
        self._prepare(self._waiting(names, nodes))
        self._tell_troubles(nodes)
        for item in list(self._view.items.values()):
            token = item.obj.token
            if token in self._answers:
                await self._close(item, self._answers[token], nodes)
            elif token not in self._calls and len(self._calls) < CALLS_IN_FLIGHT:
                self._calls[token] = asyncio.create_task(self._call(item.obj), name=f"launch-{token}")

    # ------------------------------------------------------------ opening

    def _waiting(self, names: Iterable[str], nodes: Mapping[str, Versioned[Node]]) -> list[Versioned[Node]]:
        """Those that are to be launched and in no batch."""
        found = [nodes.get(name) for name in names if name not in self._of_node]
        return [node for node in found if node is not None and _waits(node.obj)]

    def _prepare(self, waiting: list[Versioned[Node]]) -> None:
        """Begins new batches; not of a kind that is being prepared, for those nodes will join."""
        room = CALLS_IN_FLIGHT - len(self._calls) - len(self._preparations) - len(self._unsure)
        if room <= 0:
            return
        groups = plan_launches(waiting, self._deps.limits.launch_batch, self._deps.volume_gib)
        busy = self._preparations.kinds()
        ready = [group for group in self._preparations.ready(groups) if group.kind not in busy]
        for group in ready[:room]:
            token = self._preparations.begin(group)
            self._of_node.update((node.obj.name, token) for node in group.nodes)

    async def _open(
        self, prepared: list[Prepared], nodes: Mapping[str, Versioned[Node]], waiting: list[Versioned[Node]]
    ) -> None:
        """Records batches whose calls are complete, of the nodes that are still wanted; ends those that get none. What
        has come meanwhile and is of the same kind joins: an API call for each would be too many."""
        openings: list[Opening] = []
        later: dict[LaunchKind, list[Versioned[Node]]] = {}
        for node in waiting:
            later.setdefault(launch_kind(node.obj, self._deps.volume_gib), []).append(node)
        for item in prepared:
            names = [node.obj.name for node in item.group.nodes]
            wanted = [n for n in map(nodes.get, names) if n is not None and _waits(n.obj)]
            if item.error is None and wanted:
                joining = later.get(item.group.kind, [])
                room = self._deps.limits.launch_batch - len(wanted)
                wanted += joining[:room]
                del joining[:room]
                self._of_node.update((node.obj.name, item.call.token) for node in wanted)
                batch = Batch(replace(item.call, count=len(wanted)), tuple(n.obj.name for n in wanted))
                key = self._prefix + batch.token
                compares = (Compare(key, 0), *(Compare(n.key, n.revision) for n in wanted))
                openings.append((batch, WriteGroup(compares, (Put(key, batch.to_json()),))))
                names = [name for name in names if name not in batch.nodes]
            elif item.error is not None and item.delayed:
                self._tell(wanted, item.error)
            elif isinstance(item.error, Terminal):
                await self._end(wanted, item.error, item.call)
            self._let_go(item.call.token, names)
        if openings:
            await self._record(openings)

    async def _end(self, nodes: list[Versioned[Node]], error: Terminal, call: LaunchCall) -> None:
        """Ends nodes whose call could not even be made."""
        changes, extra = await self._refused(nodes, error, call)
        if not changes:
            return
        compares = tuple(Compare(old.key, old.revision) for old, _ in changes)
        group = WriteGroup(compares, (*(Put(old.key, new.to_json()) for old, new in changes), *extra))
        outcome = (await self._commit([group], [[(old.key, new) for old, new in changes]]))[0]
        if outcome.verdict == Verdict.COMMITTED:
            self._tell_ended([new for _, new in changes], error)
        else:
            asyncio.get_running_loop().call_later(self._deps.limits.retry_first_s, self._changed.set)

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
            self._let_go(batch.token, batch.nodes)
        else:
            self._unsure.append(opening)

    def _let_go(self, token: str, names: Iterable[str]) -> None:
        for name in names:
            if self._of_node.get(name) == token:
                del self._of_node[name]
                self._changed.set()  # it may be due for something else by now, such as its end

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
                except (NoCapacity, LaunchRejected, LaunchOutdated) as error:
                    self._answers[batch.token] = error
                    return
                except Deposed:
                    return  # Whoever leads now makes the recorded call.
                except MilpaError as error:
                    log.warning("launch of %d %s: %s; trying again", batch.call.count, batch.call.instance_type, error)
                    self._troubles[batch.token] = error
                    self._changed.set()
                    await backoff.sleep()
        finally:
            self._calls.pop(batch.token, None)
            self._troubles.pop(batch.token, None)
            self._changed.set()

    # ------------------------------------------------------------ closing

    async def _close(self, item: Versioned[Batch], answer: Answer, nodes: Mapping[str, Versioned[Node]]) -> None:
        batch = item.obj
        now = self._deps.clock.now()
        olds = [nodes.get(name) for name in batch.nodes]
        changes: list[tuple[Versioned[Node], Node]] = []
        extra: list[Op] = []
        if isinstance(answer, LaunchOutdated):
            log.warning("batch %s: %s; its nodes get another one", batch.token, answer)
        elif isinstance(answer, Terminal):
            changes, extra = await self._refused([old for old in olds if old is not None], answer, batch.call)
        else:
            for instance in answer:
                old = olds[instance.launch_index] if instance.launch_index < len(olds) else None
                if old is not None and old.obj.status.phase == NodePhase.CREATING:
                    changes.append((old, launched(old.obj, instance, batch.call, now)))
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
        kinds = {launch_kind(old.obj, self._deps.volume_gib) for old in olds if old is not None}
        for kind in kinds:
            if isinstance(answer, LaunchOutdated):
                self._preparations.delay(kind)
            else:
                self._preparations.forget_delay(kind)
        if isinstance(answer, Terminal):
            self._tell_ended([new for _, new in changes], answer)

    async def _refused(
        self, nodes: list[Versioned[Node]], error: Terminal, call: LaunchCall
    ) -> tuple[list[tuple[Versioned[Node], Node]], list[Op]]:
        """What the cloud's refusal changes: the nodes' end, and the memory of what is full."""
        reason = error.code if isinstance(error, NoCapacity) else LAUNCH_REJECTED
        now = self._deps.clock.now()
        changes = [
            (old, not_launched(old.obj, reason, str(error), now))
            for old in nodes
            if old.obj.status.phase == NodePhase.CREATING
        ]
        if not isinstance(error, NoCapacity):
            return changes, []
        lease = await self._deps.store.lease_grant(self._deps.limits.capacity_memory_s)
        return changes, [capacity_put(self._deps.keys, call, error.scope, lease)]

    # ------------------------------------------------------------ telling

    def _tell_ended(self, nodes: list[Node], error: Terminal) -> None:
        for node in nodes:
            involved = ObjectReference(kind="Node", name=node.name, uid=node.uid)
            self._deps.recorder.record(involved, "node-terminated", str(error))

    def _tell_troubles(self, nodes: Mapping[str, Versioned[Node]]) -> None:
        """Tells of launches that are tried again and again, each reason once."""
        troubles, self._troubles = self._troubles, {}
        for token, error in troubles.items():
            item = self._view.items.get(self._prefix + token)
            if item is not None:
                self._tell([n for n in map(nodes.get, item.obj.nodes) if n is not None], error)
        for name in [name for name in self._told if name not in self._of_node and name not in nodes]:
            del self._told[name]

    def _tell(self, nodes: list[Versioned[Node]], error: MilpaError) -> None:
        if isinstance(error, CloudThrottled):
            return  # The cloud's own pace; it passes.
        for stored in nodes:
            node = stored.obj
            if self._told.get(node.name) != str(error):
                self._told[node.name] = str(error)
                involved = ObjectReference(kind="Node", name=node.name, uid=node.uid)
                if node.status.bound_pod_name:
                    involved = ObjectReference(kind="Pod", name=node.status.bound_pod_name, uid=node.status.pod_uid)
                self._deps.recorder.record(involved, "launch-delayed", f"{error}; trying again")

    def dump(self) -> dict[str, Any]:
        """State for people who debug."""
        return {"open": len(self._view.items), "calls": len(self._calls), "nodes": len(self._of_node)}


def _waits(node: Node) -> bool:
    """Whether it is still to be launched."""
    return node.status.phase == NodePhase.CREATING and not node.spec.terminate
