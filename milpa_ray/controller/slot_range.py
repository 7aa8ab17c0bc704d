"""Serves one range of slots under the owner's token: view, passes, agent links and effects.

A pass takes the cases in which something changed, plans them, commits the plan in as few transactions as possible, and
starts what the stored records ask of agents. The next pass starts only when the commit's outcome has been taken over.
Effects are started only for cases that had nothing to write: they act on records, not on hopes.

When the map is rewritten the range goes on under the new token with what stays its own. No pass starts until what is
new has been read.
"""

import asyncio
import dataclasses
import logging
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from typing import Any

from milpa_ray.api.meta import ObjectReference
from milpa_ray.api.node import Node
from milpa_ray.api.pod import Pod, PodPhase
from milpa_ray.controller.capacity import decode_capacity
from milpa_ray.controller.committing import Deposed, commit_fenced
from milpa_ray.controller.deps import ShardDeps
from milpa_ray.controller.effects import EffectRunner
from milpa_ray.controller.identifiers import make_uuid
from milpa_ray.controller.links import Dialling, LinkDeps, LinkPool
from milpa_ray.controller.pacing import Agenda, Backoff, persist
from milpa_ray.controller.resolving import Resolver
from milpa_ray.controller.saving import LogSaver
from milpa_ray.controller.view import KeyView
from milpa_ray.errors import StaleToken
from milpa_ray.keys import prefix_end, slot_of
from milpa_ray.planner.check import violations
from milpa_ray.planner.fullness import NOTHING_FULL, Full, FullRecord
from milpa_ray.planner.membership import ShardEntry
from milpa_ray.planner.refusal import NO_CAPACITY
from milpa_ray.planner.shard import plan_shard
from milpa_ray.planner.snapshot import Case, CasePlan, Notice, Snapshot, Versioned
from milpa_ray.ports import Token
from milpa_ray.store.group import GroupOutcome, Verdict, WriteGroup
from milpa_ray.store.port import Compare, Delete, Op, Put

log = logging.getLogger(__name__)

PASS_CASES = 256
"""Cases of one pass: enough to fill a few transactions, few enough that a pass takes milliseconds."""
REFUSED_SPREAD_S = 0.05
"""Between two pods that waited for capacity when some has come back."""
CONFLICT_PAUSE_S = 0.05
"""A case whose commit met a conflict is planned again after this at the latest, if the watch brings nothing sooner."""


class SlotRange:
    """Serves the slots of ``entry``, or of a later one of the same incarnation, from ``run`` until it is cancelled."""

    def __init__(self, deps: ShardDeps, entry: ShardEntry, token: Token) -> None:
        self._deps = deps
        self._entry = entry
        self._token = token
        self._renewed = asyncio.Event()
        self._stale: asyncio.Queue[StaleToken] = asyncio.Queue(1)
        self._agenda = Agenda()
        self._nodes_of: dict[str, set[str]] = defaultdict(set)
        self._nodes: dict[str, Versioned[Node]] = {}
        self._full = NOTHING_FULL
        self._refused: dict[str, None] = {}
        self._passes = 0
        self._view: KeyView[Pod | Node] = KeyView(
            deps.store, deps.keys.slots(entry.low, entry.high), self._decode, self._changed, self._backoff()
        )
        capacity = deps.keys.prefix("capacity")
        self._capacity: KeyView[FullRecord] = KeyView(
            deps.store, (capacity, prefix_end(capacity)), decode_capacity, self._capacity_changed, self._backoff()
        )
        self._links = LinkPool(
            LinkDeps(
                deps.dialer,
                deps.limits,
                deps.rng,
                lambda: self._token,
                self._node_changed,
                self._on_stale,
                Dialling(deps.limits.connects_in_flight),
                deps.enrol,
            )
        )
        self._saver = LogSaver(deps.store, deps.keys, deps.clock, deps.limits)
        resolver = Resolver(deps.store, deps.keys, deps.environment)
        self._effects = EffectRunner(deps.limits, deps.rng, lambda: self._token, resolver, self._saver)

    def _backoff(self) -> Backoff:
        return Backoff(self._deps.rng, self._deps.limits.retry_first_s, self._deps.limits.lease_ttl_s)

    # ------------------------------------------------------------ ownership

    def renew(self, entry: ShardEntry, token: Token) -> None:
        """The map was rewritten and gives this incarnation ``entry``: goes on under its token.

        What left is let go before this returns: links are closed and effects given up, since the new token, which the
        new owner has too, would not keep them from contradicting it. What stays keeps its link; its agent hears of the
        token by the next call. That is soon enough: nobody else has owned it since our hello.
        """
        self._entry = entry
        self._token = token
        self._view.move(self._deps.keys.slots(entry.low, entry.high))
        self._renewed.set()

    def _on_stale(self, error: StaleToken) -> None:
        """An agent knows a newer owner than our call did. With a newer token at hand it was only our call that was
        late."""
        if Token(error.term, error.revision) > self._token and self._stale.empty():
            self._stale.put_nowait(error)

    async def _watch_stale(self) -> None:
        """The map that made the newer owner comes to us, too, and may have left us the rest. If it does not come in
        time we are deposed."""
        while True:
            error = await self._stale.get()
            try:
                async with asyncio.timeout(self._deps.limits.call_timeout_s):
                    while Token(error.term, error.revision) > self._token:
                        self._renewed.clear()
                        await self._renewed.wait()
            except TimeoutError:
                raise Deposed(str(error)) from error

    # ------------------------------------------------------------ view

    def _decode(self, key: str, value: bytes) -> Pod | Node | None:
        parsed = self._deps.keys.parse(key)
        if parsed is None:
            return None
        if parsed.kind == "pod":
            return Pod.from_json(value)
        return Node.from_json(value) if parsed.kind == "node" else None

    def _changed(self, _key: str, before: Versioned[Pod | Node] | None, after: Versioned[Pod | Node] | None) -> None:
        item = after or before
        if item is None:
            return
        if isinstance(item.obj, Pod):
            self._follow_refused(item.obj, there=after is not None)
            self._agenda.add(item.obj.name)
            return
        node = item.obj
        pod_name = node.status.bound_pod_name
        if after is None:
            self._nodes.pop(node.name, None)
            self._nodes_of[pod_name].discard(node.name)
            if not self._nodes_of[pod_name]:
                del self._nodes_of[pod_name]
            self._effects.give_up(node.name)
        else:
            self._nodes[node.name] = Versioned(item.key, node, item.revision)
            self._nodes_of[pod_name].add(node.name)
        self._links.follow(node if after is not None else None, node.name)
        self._agenda.add(pod_name)

    def _node_changed(self, node_name: str) -> None:
        """Something was learnt about a node's agent."""
        item = self._nodes.get(node_name)
        if item is not None:
            self._agenda.add(item.obj.status.bound_pod_name)

    def _follow_refused(self, pod: Pod, *, there: bool) -> None:
        """Remembers the pods that wait for capacity, in the order in which they were refused."""
        if there and pod.status.phase == PodPhase.WAITING and pod.status.reason == NO_CAPACITY:
            self._refused[pod.name] = None
        else:
            self._refused.pop(pod.name, None)

    def _capacity_changed(self, _key: str, _before: object, after: object) -> None:
        """Capacity that has come back is tried by the pods that wait for it one after the other: should it be little,
        most of them find it gone again before they have launched anything."""
        self._full = Full.of(item.obj for item in self._capacity.items.values())
        if after is None:
            for number, name in enumerate(self._refused):
                self._agenda.add_later(name, number * REFUSED_SPREAD_S)

    # ------------------------------------------------------------ passes

    async def run(self) -> None:
        """Serves until cancelled.

        Raises:
            ExceptionGroup with Deposed: another owner has spoken to an agent of ours.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._view.run())
                tasks.create_task(self._capacity.run())
                tasks.create_task(self._saver.run())
                tasks.create_task(self._sweep())
                tasks.create_task(self._watch_stale())
                await self._capacity.synced.wait()
                while True:
                    names = await self._agenda.take(PASS_CASES)
                    await self._view.synced.wait()
                    await self._pass(names)
        finally:
            self._effects.close()
            self._links.close()

    async def _sweep(self) -> None:
        """Looks at the cases whose agents are silent; their time-outs are the planner's."""
        while True:
            await asyncio.sleep(self._deps.limits.heartbeat_s)
            for link in self._links.silent(self._deps.limits.unhealthy_after_s):
                self._node_changed(link.node.name)

    def _case(self, name: str) -> Case:
        key = self._deps.keys.pod(name)
        stored = self._view.items.get(key)
        pod = Versioned(key, stored.obj, stored.revision) if stored and isinstance(stored.obj, Pod) else None
        nodes = tuple(self._nodes[node] for node in sorted(self._nodes_of.get(name, ())))
        fresh = make_uuid(self._deps.rng)
        return Case(
            name,
            pod,
            nodes,
            {n.obj.name: link.facts() for n in nodes if (link := self._links.links.get(n.obj.name))},
            fresh,
            self._deps.keys.node(slot_of(name), fresh),
        )

    async def _pass(self, names: Sequence[str]) -> None:
        self._passes += 1
        cases = [self._case(name) for name in names]
        offers = dataclasses.replace(self._deps.offers, full=self._full)
        plans = plan_shard(Snapshot(self._deps.clock.now(), tuple(cases), offers, self._deps.limits))
        writing: list[CasePlan] = []
        for case, plan in zip(cases, plans, strict=True):
            if plan.wake_s is not None:
                self._agenda.add_later(case.name, plan.wake_s)
            if not plan.writes:
                self._start_effects(case, plan)
            elif wrong := violations(case, plan):
                log.error("plan of %s is refused: %s", case.name, "; ".join(wrong))
            else:
                writing.append(plan)
        await self._commit(writing)

    def _start_effects(self, case: Case, plan: CasePlan) -> None:
        for effect in plan.effects:
            link = self._links.links.get(effect.node)
            if link is not None:
                self._effects.start(effect, link, case.pod.obj if case.pod else None, self._node_changed)

    # ------------------------------------------------------------ commits

    async def _commit(self, plans: Sequence[CasePlan]) -> None:
        if not plans:
            return
        token = self._token
        groups = [_group(plan) for plan in plans]
        fenced = False
        with self._view.writing(_values(plans, groups)):
            outcomes = await commit_fenced(self._deps.store, self._deps.keys.map, token, groups)
            for plan, outcome in zip(plans, outcomes, strict=True):
                if outcome.verdict == Verdict.COMMITTED:
                    self._take_over(plan, outcome.revision)
                else:
                    fenced |= outcome.verdict == Verdict.FENCED
                    await self._not_committed(plan, outcome)
        if fenced:
            await self._until_renewed(token)

    def _take_over(self, plan: CasePlan, revision: int) -> None:
        for write in plan.writes:
            if write.obj is None:
                self._view.remove(write.key, revision)
            else:
                self._view.apply(write.key, write.obj, revision)
        for notice in plan.notices:
            self._record(notice)

    async def _not_committed(self, plan: CasePlan, outcome: GroupOutcome) -> None:
        """The case is planned again; what is known of its keys is brought up to date first."""
        if outcome.verdict == Verdict.CONFLICT:
            for entry in outcome.current:
                if entry is not None:
                    self._view.apply_entry(entry)
        elif outcome.verdict != Verdict.FENCED:
            for key in {*(w.key for w in plan.writes), *(key for key, _ in plan.guards)}:
                await persist(partial(self._view.reread, key), self._backoff(), f"reading {key}")
        self._agenda.add_later(plan.name, CONFLICT_PAUSE_S)

    async def _until_renewed(self, token: Token) -> None:
        """The map has moved on. Whoever runs us renews our token, or cancels us when the range is no longer ours."""
        while self._token == token:
            self._renewed.clear()
            await self._renewed.wait()

    def _record(self, notice: Notice) -> None:
        involved = ObjectReference(kind=notice.kind, name=notice.name, uid=notice.uid)
        self._deps.recorder.record(involved, notice.status, notice.message)

    def dump(self) -> dict[str, Any]:
        """State for people who debug."""
        return {
            "slots": [self._entry.low, self._entry.high],
            "token": [self._token.term, self._token.revision],
            "revision": self._view.revision,
            "synced": self._view.synced.is_set(),
            "objects": len(self._view.items),
            "links": len(self._links.links),
            "linksReady": sum(link.agent is not None for link in self._links.links.values()),
            "due": len(self._agenda),
            "passes": self._passes,
        }


def _group(plan: CasePlan) -> WriteGroup:
    compares = tuple(Compare(w.key, w.before) for w in plan.writes) + tuple(Compare(k, r) for k, r in plan.guards)
    ops: list[Op] = [Delete(w.key) if w.obj is None else Put(w.key, w.obj.to_json()) for w in plan.writes]
    return WriteGroup(compares, tuple(ops))


def _values(plans: Sequence[CasePlan], groups: Sequence[WriteGroup]) -> dict[str, tuple[bytes, Pod | Node]]:
    """What the groups put, as bytes and as the object, by key."""
    return {
        op.key: (op.value, write.obj)
        for plan, group in zip(plans, groups, strict=True)
        for write, op in zip(plan.writes, group.ops, strict=True)
        if isinstance(op, Put) and write.obj is not None
    }
