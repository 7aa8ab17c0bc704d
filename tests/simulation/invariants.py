"""What must hold at every moment, judged from outside: from the store's commits, the cloud's ledger and the machines.

It believes no controller. The store server reports each commit as it happens, the network each call that an agent
carried out, the machines each change of what runs. The first breach ends the run.
"""

import json
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from milpa_ray.api.node import Node, NodePhase
from milpa_ray.api.phases import NODE_TRANSITIONS, POD_TERMINAL, POD_TRANSITIONS
from milpa_ray.api.pod import Pod, PodPhase, RestartPolicy
from milpa_ray.keys import Keys
from milpa_ray.planner.interruption import SPOT_INTERRUPTED
from milpa_ray.planner.nodes import UNREACHABLE
from milpa_ray.planner.pods import START_FAILED
from milpa_ray.ports import LaunchCall, Token
from milpa_ray.store.port import Entry, Put, Txn, TxnResult
from tests.simulation.cloud import SimCloud, SimInstance
from tests.simulation.machines import NO_TOKEN, Machine
from tests.simulation.process import SimProcess

if TYPE_CHECKING:
    from enum import StrEnum

CONTROLLERS = frozenset({"shard", "coordinator"})
PATIENCE_S = 45.0
"""Longer than the simulation's limits let an agent be silent before its node is given up."""
UNFENCED = ("member", "leader", "event", "logfile", "uuid", "pki")
"""Records that are written without the fence: leased ones, and what is created once and never changed."""


def closure(table: "dict[StrEnum, frozenset[StrEnum]]") -> "dict[StrEnum, set[StrEnum]]":
    """All phases that legal steps lead to from each phase, itself included: several steps may be one write."""
    reach = {phase: {phase, *after} for phase, after in table.items()}
    for _ in table:
        for phase, seen in reach.items():
            seen |= {later for step in tuple(seen) for later in reach[step]}
            reach[phase] = seen
    return reach


POD_REACH = closure(POD_TRANSITIONS)  # type: ignore[arg-type]
NODE_REACH = closure(NODE_TRANSITIONS)  # type: ignore[arg-type]


def _listed(process: SimProcess, shard_map: bytes) -> bool:
    return any(identity.encode() in shard_map for identity in process.identities)


class Invariants:
    """``fail`` is called with what is broken."""

    def __init__(self, keys: Keys, cloud: SimCloud, machines: dict[str, Machine], fail: Callable[[str], None]) -> None:
        self.keys = keys
        self.cloud = cloud
        self.machines = machines
        self.fail = fail
        self.pods: dict[str, Pod] = {}
        self.nodes: dict[str, Node] = {}
        self.maps: dict[int, bytes] = {}
        self.removed: dict[str, PodPhase] = {}
        self.tokens: dict[str, Token] = {}
        self.runs: dict[str, set[str]] = {}
        self.interrupted: set[str] = set()
        self.bearers: dict[str, str] = {}
        self.batches: set[str] = set()
        self.doomed: set[str] = set()
        self.trouble: dict[str, float] = {}
        """When an instance was last cut off, down or back again."""
        self.cut: Collection[tuple[str, str]] = ()
        """Which process does not reach which instance now."""
        self.poor_network = False
        """So many messages are lost that an agent may seem silent for long."""
        self.records: Callable[[], Collection[str]] = tuple
        """The keys of the store at this moment."""
        self.checks = 0

    # ---------------------------------------------------------- commits

    def on_commit(
        self, process: SimProcess, txn: Txn, result: TxnResult, changed: dict[str, tuple[Entry | None, Entry | None]]
    ) -> None:
        if not result.ok:
            return
        self.checks += 1
        if self.keys.map in changed and changed[self.keys.map][1] is not None:
            entry = changed[self.keys.map][1]
            assert entry is not None
            self.maps[entry.mod_revision] = entry.value
        if process.role in CONTROLLERS:
            self._fenced(process, txn)
        for key, (old, new) in changed.items():
            parsed = self.keys.parse(key)
            if parsed is None or (old is None and new is None):
                continue
            if parsed.kind == "pod":
                self._pod(process, key, new)
            elif parsed.kind == "node":
                self._node(key, new)
        # Records are judged against the nodes as the whole transaction leaves them.
        for key, (old, new) in changed.items():
            parsed = self.keys.parse(key)
            if parsed is not None and parsed.kind == "batch" and (old or new):
                self._batch(parsed.name, new)
            elif parsed is not None and parsed.kind == "condemned" and new is not None:
                self._condemned(parsed.name)
            elif parsed is not None and parsed.kind == "node" and old is not None and new is not None:
                self._replaced(Node.from_json(old.value), Node.from_json(new.value))
        self._claims()

    def _fenced(self, process: SimProcess, txn: Txn) -> None:
        """Every commit of a controller compares the map's revision, and the map of that revision lists it."""
        for op in txn.ops:
            if isinstance(op, Put) and (op.key == self.keys.leader or op.key.startswith(self.keys.prefix("member"))):
                process.identities.add(op.value.decode())
        if all(self._needs_no_fence(op) for op in txn.ops):
            return
        if not any(compare.key == self.keys.map for compare in txn.compares):
            self.fail(f"{process} committed without the fence: {[op.key for op in txn.ops]}")
            return
        newest = self.maps[max(self.maps)] if self.maps else b""
        if not _listed(process, newest):
            self.fail(f"{process} committed though the map does not list it: {[op.key for op in txn.ops]}")
        elif process.role == "shard":
            self._own_slots(process, txn, newest)

    def _own_slots(self, process: SimProcess, txn: Txn, newest: bytes) -> None:
        for op in txn.ops:
            if not self._owns(process, op.key, newest):
                self.fail(f"{process} wrote {op.key}, which lies in another shard's slots")

    def _owns(self, process: SimProcess, key: str, shard_map: bytes) -> bool:
        parsed = self.keys.parse(key)
        own = [entry for entry in json.loads(shard_map)["shards"] if entry["incarnation"] in process.identities]
        return parsed is None or parsed.slot < 0 or any(e["low"] <= parsed.slot < e["high"] for e in own)

    def _needs_no_fence(self, op: object) -> bool:
        key = getattr(op, "key", "")
        if isinstance(op, Put) and op.lease:
            return True
        return bool(key.removeprefix(self.keys.root).split("/")[0] in UNFENCED)

    def _pod(self, process: SimProcess, key: str, entry: Entry | None) -> None:
        old = self.pods.get(key)
        if entry is None:
            if old is not None:
                del self.pods[key]
                self._pod_removed(process, old)
            return
        new = self.pods[key] = Pod.from_json(entry.value)
        if old is None:
            if new.status.phase != PodPhase.WAITING:
                self.fail(f"pod {new.name} was created in phase {new.status.phase}")
            return
        if new.uid != old.uid:
            self.fail(f"pod {new.name}: uid {old.uid} was replaced by {new.uid} without a deletion")
        if new.status.phase not in POD_REACH[old.status.phase]:
            self.fail(f"pod {new.name}: no way from {old.status.phase} to {new.status.phase}")
        if process.role in CONTROLLERS:
            self._wish_kept(process, old, new)
        elif new.status != old.status:
            self.fail(f"{process} changed the status of pod {new.name}, which is the controllers'")
        bound = self.cloud.instances.get(new.status.bound_instance_id)
        if bound is not None and not bound.live:
            self.interrupted.add(new.uid)
        if new.status.reason == SPOT_INTERRUPTED != old.status.reason:
            self._taken_back(old)
        if old.status.bound_node_uid and new.status.bound_node_uid != old.status.bound_node_uid:
            self._let_go(old)

    def _taken_back(self, pod: Pod) -> None:
        """A pod is stopped for a spot interruption only if there is one."""
        self.interrupted.add(pod.uid)
        instance = self.cloud.instances.get(pod.status.bound_instance_id)
        if instance is None or instance.taken_back_at is None:
            self.fail(f"pod {pod.name} is called interrupted, but nobody takes {pod.status.bound_instance_id} back")

    def _wish_kept(self, process: SimProcess, old: Pod, new: Pod) -> None:
        """A controller never overwrites what a user has written, which is what losing a write looks like."""
        if new.spec != old.spec or new.metadata != old.metadata:
            self.fail(f"{process} changed the wish of pod {new.name}: an acknowledged write is lost")

    def _pod_removed(self, process: SimProcess, old: Pod) -> None:
        self.removed[old.uid] = old.status.phase
        if process.role not in CONTROLLERS:
            self.fail(f"{process} removed pod {old.name}; only its controller may, once its end is proved")
        if old.metadata.deletion_timestamp is None and old.status.phase not in POD_TERMINAL:
            self.fail(f"pod {old.name} ({old.status.phase}) is gone though nobody deleted it: a write is lost")
        if self.runs.get(old.uid):
            self.fail(f"pod {old.name} was removed while it runs on {sorted(self.runs[old.uid])}")

    def _let_go(self, pod: Pod) -> None:
        """A pod leaves its node only when that instance is off or its agent will never run the pod (again)."""
        machine = self.machines.get(pod.status.bound_instance_id)
        instance = self.cloud.instances.get(pod.status.bound_instance_id)
        if instance is None or not instance.live or machine is None or not machine.powered:
            if instance is not None and instance.live:
                self.fail(f"pod {pod.name} left {instance.id}, which is {instance.state}")
            return
        if pod.uid not in machine.stop_asked or machine.running:
            self.fail(f"pod {pod.name} left {instance.id} without the proof that it is stopped there")

    # ---------------------------------------------------------- nodes

    def _node(self, key: str, entry: Entry | None) -> None:
        old = self.nodes.get(key)
        if entry is None:
            if old is not None:
                del self.nodes[key]
                self._instance_ended(old, "was removed")
            return
        new = self.nodes[key] = Node.from_json(entry.value)
        if new.status.instance_id:
            bearer = self.bearers.setdefault(new.status.instance_id, new.uid)
            if bearer != new.uid:
                self.fail(f"instance {new.status.instance_id} belongs to two nodes: {bearer} and {new.uid}")
        if new.status.phase == NodePhase.TERMINATED and (old is None or old.status.phase != NodePhase.TERMINATED):
            self._instance_ended(new, "is Terminated")
        if old is not None:
            self._node_changed(old, new)

    def _node_changed(self, old: Node, new: Node) -> None:
        if new.status.phase not in NODE_REACH[old.status.phase]:
            self.fail(f"node {new.name}: no way from {old.status.phase} to {new.status.phase}")
        if old.status.instance_id and new.status.instance_id != old.status.instance_id:
            self.fail(f"node {new.name} changed its instance from {old.status.instance_id}")
        used = old.status.phase in (NodePhase.CLAIMED, NodePhase.CLEANING)
        if used and new.status.pod_uid not in ("", old.status.pod_uid):
            self.fail(f"node {new.name} is handed from pod {old.status.pod_uid} to {new.status.pod_uid}")
        if new.uid != old.uid:
            self.fail(f"node {new.name}: its uid changed")
        if new.status.reason == UNREACHABLE != old.status.reason:
            self._given_up(new)

    def _replaced(self, old: Node, new: Node) -> None:
        """The record that an instance is taken back is never there without that of the pod's next node, or of why
        there is none."""
        if old.status.interruption_at is not None or new.status.interruption_at is None:
            return
        pod = next((p for p in self.pods.values() if p.status.bound_node_uid == new.uid), None)
        if pod is None or pod.status.phase in POD_TERMINAL or pod.status.reason == START_FAILED:
            return
        unwanted = pod.metadata.deletion_timestamp is not None or pod.spec.phase != PodPhase.RUNNING
        if unwanted or pod.spec.restart_policy == RestartPolicy.NEVER:
            return
        made = any(
            n.status.pod_uid == pod.uid and n.uid != new.uid and not n.spec.terminate for n in self.nodes.values()
        )
        if not made and not pod.status.message.startswith(f"{new.status.message}; "):
            self.fail(f"the instance of pod {pod.name} is taken back, and nothing is done about it")

    def _given_up(self, node: Node) -> None:
        """A node is called unreachable only if something was wrong with it or with the way to it."""
        instance = self.cloud.instances.get(node.status.instance_id)
        machine = self.machines.get(node.status.instance_id)
        if instance is None or machine is None or not machine.agent_up:
            return
        if self.poor_network or any(instance.id == cut_off for _, cut_off in self.cut):
            return
        quiet_s = self.cloud.loop.time() - self.trouble.get(instance.id, instance.launched_at)
        if quiet_s > PATIENCE_S:
            self.fail(
                f"node {node.name} is called unreachable, but nothing was wrong with {instance.id}: {quiet_s:.0f} s"
            )

    def _instance_ended(self, node: Node, what: str) -> None:
        instance = self.cloud.instances.get(node.status.instance_id)
        if instance is not None and instance.live:
            self.fail(f"node {node.name} {what} while its instance {instance.id} is {instance.state}")

    def _claims(self) -> None:
        """At most one node is claimed by a pod at any time."""
        holders: dict[str, str] = {}
        for node in self.nodes.values():
            if node.status.phase == NodePhase.CLAIMED:
                other = holders.setdefault(node.status.pod_uid, node.name)
                if other != node.name:
                    self.fail(f"pod {node.status.pod_uid} claims two nodes: {other} and {node.name}")

    # ---------------------------------------------------------- the cloud

    def _batch(self, token: str, entry: Entry | None) -> None:
        """A batch record goes only when every instance that it brought has found its node. (A late copy of a call that
        was refused brings one that nobody can know of; the garbage collector's.)"""
        if entry is not None:
            self.batches.add(token)
            return
        if token in self.cloud.refused:
            return
        for instance in self.cloud.instances.values():
            if instance.call.token == token and instance.live and instance.id not in self.bearers:
                self.fail(f"batch {token} is closed, but its instance {instance.id} belongs to no node")

    def on_launch(self, call: LaunchCall, before: LaunchCall | None) -> None:
        """A launch has reached the cloud; ``before`` is what was sent under the same token."""
        if call.token not in self.batches:
            self.fail(f"launch {call.token} was made before it was recorded")
        if before is not None and before != call:
            self.fail(f"launch {call.token} was sent again, but changed: {before} then {call}")

    def _condemned(self, instance_id: str) -> None:
        self.doomed.add(instance_id)
        instance = self.cloud.instances.get(instance_id)
        token = instance.call.token if instance is not None else ""
        if any(node.status.instance_id == instance_id for node in self.nodes.values()):
            self.fail(f"instance {instance_id} is condemned, but it has a node")
        if any(key == self.keys.prefix("batch") + token for key in self.records()):
            self.fail(f"instance {instance_id} is condemned, but its launch {token} is still open")

    def on_terminate(self, instance: SimInstance) -> None:
        """A termination has reached the cloud: a record must have asked for it."""
        node = next((n for n in self.nodes.values() if n.status.instance_id == instance.id), None)
        if node is not None and node.status.phase not in (NodePhase.TERMINATING, NodePhase.TERMINATED):
            self.fail(f"instance {instance.id} was terminated though its node {node.name} is {node.status.phase}")
        if node is None and instance.id not in self.doomed and instance.id not in self.bearers:
            self.fail(f"instance {instance.id} was terminated though no record asked for it")

    # ---------------------------------------------------------- agents and machines

    def on_call(self, process: SimProcess, machine: Machine, verb: str, token: Token, pod_uid: str) -> None:
        """A call that an agent has carried out. Its token is one that the caller held, and tokens never go down."""
        self.checks += 1
        known = self.maps.get(token.revision)
        if known is None or not _listed(process, known):
            self.fail(f"{process} called {verb} with token {token}, which was never its own")
        elif process.role == "shard":
            key = next((k for k, node in self.nodes.items() if node.status.instance_id == machine.instance.id), "")
            if not self._owns(process, key, known):
                self.fail(f"{process} called {verb} on {machine.instance.id}, which is another shard's under {token}")
        if token < self.tokens.get(machine.instance.id, NO_TOKEN) and verb != "stop":
            self.fail(f"{machine.instance.id} carried out {verb} for the deposed {process}")
        self.tokens[machine.instance.id] = max(token, self.tokens.get(machine.instance.id, NO_TOKEN))
        if len(machine.served) > 1:
            self.fail(f"{machine.instance.id} has served two pods: {sorted(machine.served)}")

    def on_units(self, machine: Machine) -> None:
        """What runs has changed on this machine."""
        self.checks += 1
        uid = machine.pod_uid
        if not uid:
            return
        places = self.runs.setdefault(uid, set())
        if machine.running:
            places.add(machine.instance.id)
        else:
            places.discard(machine.instance.id)
        if len(places) > 1:
            self.fail(f"pod {uid} runs on two nodes at once: {sorted(places)}")

    def on_power_off(self, instance_id: str) -> None:
        """An instance has ended; what was bound to it may have been interrupted."""
        self.interrupted |= {p.uid for p in self.pods.values() if p.status.bound_instance_id == instance_id}
