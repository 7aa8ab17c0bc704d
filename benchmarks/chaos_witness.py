"""Follows every change of the store during a fault run, and judges each as the simulation's invariants do.

It believes no controller and asks only etcd; its own watch goes on over etcd's restarts. What is no legal step, or
looks like a lost write, is noted in ``wrong``; nothing ends the run. Who wrote a change a watch cannot tell: that
deposed owners write nothing is the simulation's to show.
"""

import asyncio
import time
from collections.abc import Mapping
from enum import StrEnum
from itertools import groupby
from typing import TypeVar

from milpa_ray.api.node import Node, NodePhase
from milpa_ray.api.phases import NODE_TRANSITIONS, POD_TERMINAL, POD_TRANSITIONS
from milpa_ray.api.pod import Pod, PodPhase
from milpa_ray.keys import Keys, prefix_end
from milpa_ray.planner.pods import LIVE_NODE
from milpa_ray.store.port import Change, Entry, Store

P = TypeVar("P", bound=StrEnum)
PASSING = ("batch", "condemned")
"""Families of records that are gone once all is settled."""
USED = (NodePhase.CLAIMED, NodePhase.CLEANING)


def reach(table: Mapping[P, frozenset[P]]) -> dict[P, set[P]]:
    """All phases that legal steps lead to from each phase, itself included: several steps may be one write."""
    found = {phase: {phase, *after} for phase, after in table.items()}
    for _ in table:
        for seen in found.values():
            seen |= {later for step in tuple(seen) for later in found[step]}
    return found


POD_REACH = reach(POD_TRANSITIONS)
NODE_REACH = reach(NODE_TRANSITIONS)


class Witness:
    """The history of one cluster's records. Times are ``time.monotonic`` of when a change was seen, which is after it
    was made. ``maps`` holds the revisions that the map has had."""

    def __init__(self, store: Store, keys: Keys) -> None:
        self._store = store
        self.keys = keys
        self.wrong: list[str] = []
        self.revision = 0
        self.changes = 0
        self.pods: dict[str, Pod] = {}
        self.nodes: dict[str, Node] = {}
        self.seen: set[str] = set()
        self.removed: dict[str, float] = {}
        self.ended_nodes: dict[str, tuple[str, float]] = {}
        """Private address of each node that was called Terminated or removed, by node uid, and when."""
        self.maps: set[int] = set()
        self._bearers: dict[str, str] = {}
        self._places: dict[str, set[str]] = {}

    async def start(self) -> None:
        """Reads the records as they are; ``follow`` goes on from there."""
        entries, self.revision = await read_all(self._store, self.keys)
        shard_map = await self._store.get(self.keys.map)
        if shard_map is not None:
            self.maps.add(shard_map.mod_revision)
        for entry in entries:
            self._take(Change(entry))

    async def follow(self) -> None:
        """Judges every change until cancelled. Raises ``Compacted`` when it was left behind."""
        root = self.keys.root
        async for batch in self._store.watch(root, prefix_end(root), self.revision + 1):
            for _, changes in groupby(batch.changes, lambda change: change.entry.mod_revision):
                self.judge(list(changes))
            self.revision = batch.revision

    async def caught_up(self, timeout_s: float) -> bool:
        """Waits until all that is in the store now was seen."""
        target = await self._store.revision()
        deadline = time.monotonic() + timeout_s
        while self.revision < target and time.monotonic() < deadline:
            await asyncio.sleep(0.1)
            await self._store.revision()  # it makes an idle watch tell how far it is
        return self.revision >= target

    def judge(self, changes: list[Change]) -> None:
        """Takes over the changes of one transaction."""
        self.changes += len(changes)
        touched = set()
        for change in changes:
            touched |= self._take(change)
        for uid in touched:
            live = sorted(self._places.get(uid, ()))
            if len(live) > 1:
                self.wrong.append(f"pod {uid} has two live nodes: {live}")

    def _take(self, change: Change) -> set[str]:
        """Judges one change. Uids of the pods whose nodes it touches."""
        entry = change.entry
        if entry.key == self.keys.map:
            self.maps.add(entry.mod_revision)
        parsed = self.keys.parse(entry.key)
        if parsed is None or parsed.kind not in ("pod", "node") or parsed.slot < 0:
            return set()
        if parsed.kind == "pod":
            self._pod(entry.key, None if change.deleted else Pod.from_json(entry.value))
            return set()
        return self._node(entry.key, None if change.deleted else Node.from_json(entry.value))

    # ---------------------------------------------------------- pods

    def _pod(self, key: str, new: Pod | None) -> None:
        old = self.pods.pop(key, None)
        if new is not None:
            self.pods[key] = new
            self.seen.add(new.uid)
        if old is None:
            if new is not None and new.status.phase is not PodPhase.WAITING and self.changes:
                self.wrong.append(f"pod {new.name} was created in phase {new.status.phase}")
        elif new is None:
            self.removed[old.uid] = time.monotonic()
            if old.metadata.deletion_timestamp is None and old.status.phase not in POD_TERMINAL:
                self.wrong.append(f"pod {old.name} ({old.status.phase}) is gone though nobody deleted it")
        else:
            self._pod_changed(old, new)

    def _pod_changed(self, old: Pod, new: Pod) -> None:
        if new.uid != old.uid:
            self.wrong.append(f"pod {new.name}: uid {old.uid} was replaced by {new.uid} without a deletion")
        if new.status.phase not in POD_REACH[old.status.phase]:
            self.wrong.append(f"pod {new.name}: no way from {old.status.phase} to {new.status.phase}")
        if old.metadata.deletion_timestamp is not None and new.metadata.deletion_timestamp is None:
            self.wrong.append(f"pod {new.name}: its deletion was taken back")
        # The users of a fault run change no pod, so whatever differs was lost by a controller.
        wished = new.metadata.model_copy(update={"deletion_timestamp": old.metadata.deletion_timestamp})
        if new.spec != old.spec or wished != old.metadata:
            self.wrong.append(f"pod {new.name}: its wish was changed: an acknowledged write is lost")

    # ---------------------------------------------------------- nodes

    def _node(self, key: str, new: Node | None) -> set[str]:
        old = self.nodes.pop(key, None)
        for node in (old, new):
            if node is not None:
                self._places.get(node.status.pod_uid, set()).discard(node.name)
        if new is not None:
            self.nodes[key] = new
            if new.status.pod_uid and new.status.phase in LIVE_NODE and not new.spec.terminate:
                self._places.setdefault(new.status.pod_uid, set()).add(new.name)
            if new.status.instance_id:
                bearer = self._bearers.setdefault(new.status.instance_id, new.uid)
                if bearer != new.uid:
                    self.wrong.append(f"instance {new.status.instance_id} has two nodes: {bearer} and {new.uid}")
        if old is not None and new is not None:
            self._node_changed(old, new)
        last = new or old
        if last is not None and (new is None or new.status.phase is NodePhase.TERMINATED):
            self.ended_nodes.setdefault(last.uid, (last.private_ip, time.monotonic()))
        return {node.status.pod_uid for node in (old, new) if node is not None}

    def _node_changed(self, old: Node, new: Node) -> None:
        if new.uid != old.uid:
            self.wrong.append(f"node {new.name}: its uid changed")
        if new.status.phase not in NODE_REACH[old.status.phase]:
            self.wrong.append(f"node {new.name}: no way from {old.status.phase} to {new.status.phase}")
        if old.status.instance_id and new.status.instance_id != old.status.instance_id:
            self.wrong.append(f"node {new.name} changed its instance from {old.status.instance_id}")
        if old.status.phase in USED and new.status.pod_uid not in ("", old.status.pod_uid):
            self.wrong.append(f"node {new.name} is handed from pod {old.status.pod_uid} to {new.status.pod_uid}")


async def read_all(store: Store, keys: Keys) -> tuple[list[Entry], int]:
    """The records that are judged, as of one revision, and that revision."""
    found: list[Entry] = []
    revision = 0
    for prefix in (keys.objects, *(keys.prefix(family) for family in PASSING)):
        start = prefix
        while start:
            page = await store.scan(start, prefix_end(prefix), revision=revision)
            found += page.entries
            start, revision = page.next_key, page.revision
    return found, revision
