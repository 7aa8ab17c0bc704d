"""What planners read and what they answer with. All of it is frozen.

A *case* is one pod name with everything that belongs to it: the pod (if it still exists), the nodes made for it or
claimed by it, and what their agents have told. Cases are independent of each other, so a pass plans only the cases
in which something changed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Generic, TypeVar

from milpa_ray.api.node import Node, NodePhase
from milpa_ray.api.pod import Pod, PodPhase, UnitStatus
from milpa_ray.limits import Limits
from milpa_ray.planner.choose import Offers

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Versioned(Generic[T]):
    """An object as the store has it: its key and the revision of its last write."""

    key: str
    obj: T
    revision: int


@dataclass(frozen=True, slots=True)
class AgentFacts:
    """What is known of one node's agent at this moment, by this owner.

    ``ready``: it answered our hello, so that it refuses older owners. ``silent_s``: seconds since it was last heard.
    ``pod_uid``, ``generation``, ``stopped``, ``units``, ``init_units``: its last report (``units`` is None before the
    first). ``refused``: why it refused a dispatch for good. ``cleaned``: its logs are saved. ``busy``: effects under
    way or waiting out a back-off. ``interruption_at``: when the cloud takes its instance back, once it has said so.
    """

    ready: bool = False
    silent_s: float = 0.0
    enrolled: bool = False
    pod_uid: str = ""
    generation: int = 0
    stopped: bool = False
    units: tuple[UnitStatus, ...] | None = None
    init_units: tuple[UnitStatus, ...] = ()
    refused: str = ""
    cleaned: bool = False
    busy: frozenset[str] = frozenset()
    interruption_at: datetime | None = None


UNKNOWN_AGENT = AgentFacts()


@dataclass(frozen=True, slots=True)
class Case:
    """One pod name. ``slot_keys`` builds the key of a node in the pod's slot; ``fresh_id`` is a uuid not used yet."""

    name: str
    pod: Versioned[Pod] | None
    nodes: tuple[Versioned[Node], ...]
    agents: Mapping[str, AgentFacts]
    fresh_id: str
    fresh_key: str

    def agent(self, node_name: str) -> AgentFacts:
        return self.agents.get(node_name, UNKNOWN_AGENT)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything a pass may look at."""

    now: datetime
    cases: tuple[Case, ...]
    offers: Offers
    limits: Limits


@dataclass(frozen=True, slots=True)
class Write:
    """One write of a key: ``obj`` None deletes it. ``before`` is its revision now (0: it does not exist).

    ``path`` lists the phases that the object goes through in this write, the present one first; ``check`` tests each
    step against the phase tables.
    """

    key: str
    before: int
    obj: Pod | Node | None
    path: tuple[PodPhase, ...] | tuple[NodePhase, ...] = ()


@dataclass(frozen=True, slots=True)
class Notice:
    """An event to record once the case's writes are committed."""

    kind: str
    name: str
    uid: str
    status: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class Effect:
    """A call to a node's agent that the stored records ask for. ``verb``: dispatch, stop or clean."""

    verb: str
    node: str
    pod_uid: str = ""
    grace_s: float = 0.0


@dataclass(frozen=True, slots=True)
class CasePlan:
    """What to do about one case: the writes and guards are one atomic group.

    ``guards`` are keys that must be unchanged without being written. ``wake_s``: look again after so many seconds.
    """

    name: str
    writes: tuple[Write, ...] = ()
    guards: tuple[tuple[str, int], ...] = ()
    notices: tuple[Notice, ...] = ()
    effects: tuple[Effect, ...] = ()
    wake_s: float | None = None


@dataclass(slots=True)
class Draft:
    """A case plan while it is being made. Later changes of the same object are folded into its one write."""

    case: Case
    now: datetime
    limits: Limits
    pod: Pod | None = None
    nodes: dict[str, Node] = field(default_factory=dict)
    pod_path: list[PodPhase] = field(default_factory=list)
    node_paths: dict[str, list[NodePhase]] = field(default_factory=dict)
    removed: set[str] = field(default_factory=set)
    notices: list[Notice] = field(default_factory=list)
    effects: list[Effect] = field(default_factory=list)
    wake_s: float | None = None

    def __post_init__(self) -> None:
        if self.case.pod is not None:
            self.pod = self.case.pod.obj
            self.pod_path = [self.pod.status.phase]
        for node in self.case.nodes:
            self.nodes[node.obj.name] = node.obj
            self.node_paths[node.obj.name] = [node.obj.status.phase]

    def wake(self, seconds: float) -> None:
        """Look at the case again after ``seconds`` at the latest."""
        seconds = max(seconds, 0.0)
        self.wake_s = seconds if self.wake_s is None else min(self.wake_s, seconds)

    def note(self, about: Pod | Node, status: str, message: str = "") -> None:
        self.notices.append(Notice(about.KIND, about.name, about.uid, status, message))

    def effect(self, verb: str, node: str, pod_uid: str = "", grace_s: float = 0.0) -> None:
        """Asks for an agent call, unless it is under way or its agent has not answered our hello."""
        facts = self.case.agent(node)
        if facts.ready and verb not in facts.busy:
            self.effects.append(Effect(verb, node, pod_uid, grace_s))

    def set_pod(self, phase: PodPhase | None = None, **status: object) -> Pod:
        """Changes the pod's status; a change of phase stamps it."""
        assert self.pod is not None
        if phase is not None and phase != self.pod.status.phase:
            status |= {"phase": phase, "last_phase_change": self.now}
            self.pod_path.append(phase)
        self.pod = self.pod.model_copy(update={"status": self.pod.status.model_copy(update=status)})
        return self.pod

    def remove_pod(self) -> None:
        self.pod = None

    def set_node(self, name: str, phase: NodePhase | None = None, **status: object) -> Node:
        """Changes a node's status; a change of phase stamps it."""
        node = self.nodes[name]
        if phase is not None and phase != node.status.phase:
            status |= {"phase": phase, "last_phase_change": self.now}
            self.node_paths[name].append(phase)
        self.nodes[name] = node.model_copy(update={"status": node.status.model_copy(update=status)})
        return self.nodes[name]

    def replace_node(self, node: Node) -> None:
        self.nodes[node.name] = node

    def remove_node(self, name: str) -> None:
        self.removed.add(name)

    def finish(self) -> CasePlan:
        """The plan: one write per changed object; what was only read becomes a guard of those writes."""
        writes: list[Write] = []
        guards: list[tuple[str, int]] = []
        stored = self.case.pod
        if stored is not None:
            if self.pod is None:
                writes.append(Write(stored.key, stored.revision, None, tuple(self.pod_path)))
            elif self.pod is not stored.obj:
                writes.append(Write(stored.key, stored.revision, self.pod, tuple(self.pod_path)))
            else:
                guards.append((stored.key, stored.revision))
        known = {node.obj.name: node for node in self.case.nodes}
        for name, node in self.nodes.items():
            before = known.get(name)
            path = tuple(self.node_paths[name])
            if before is None:
                writes.append(Write(self.case.fresh_key, 0, node, path))
            elif name in self.removed:
                writes.append(Write(before.key, before.revision, None, path))
            elif node is not before.obj:
                writes.append(Write(before.key, before.revision, node, path))
        return CasePlan(
            self.case.name,
            tuple(writes),
            tuple(guards) if writes else (),
            tuple(self.notices),
            tuple(self.effects),
            self.wake_s,
        )
