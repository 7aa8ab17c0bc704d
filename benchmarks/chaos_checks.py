"""What must be true when a fault run has ended: judged from etcd, the agents' own records and the cloud's list.

Only judges. ``unmet`` is what may still become true; ``broken`` is what never may have been.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from benchmarks.chaos_users import Ledger
from benchmarks.chaos_witness import PASSING, Witness
from milpa_ray.api.node import Node, NodePhase
from milpa_ray.api.pod import Pod, PodPhase
from milpa_ray.keys import Keys
from milpa_ray.ports import Instance, InstanceState
from milpa_ray.store.port import Entry

FOREVER = float("inf")


@dataclass(slots=True)
class Truth:
    """What etcd, the cloud and the agents say at one moment. ``agents`` are the lines of ``HollowAgents.history``."""

    pods: dict[str, Pod] = field(default_factory=dict)
    nodes: dict[str, Node] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)
    instances: Sequence[Instance] = ()
    agents: Sequence[Mapping[str, Any]] = ()

    @classmethod
    def of(
        cls, keys: Keys, entries: Iterable[Entry], instances: Sequence[Instance], agents: Sequence[Mapping[str, Any]]
    ) -> "Truth":
        found = cls(instances=instances, agents=agents)
        for entry in entries:
            parsed = keys.parse(entry.key)
            if parsed is None:
                continue
            if parsed.kind == "pod":
                found.pods[entry.key] = Pod.from_json(entry.value)
            elif parsed.kind == "node":
                found.nodes[entry.key] = Node.from_json(entry.value)
            elif parsed.kind in PASSING:
                found.left.append(entry.key)
        return found


# ---------------------------------------------------------------- in the end


def unmet(truth: Truth, ledger: Ledger) -> list[str]:
    """What is not yet as it must be in the end; empty when all is well."""
    found = [*_wishes(truth, ledger), *_nodes(truth), *_instances(truth), *_running(truth)]
    return found + [f"record {key} is left" for key in truth.left]


def _wishes(truth: Truth, ledger: Ledger) -> Iterator[str]:
    stored = {pod.uid: pod for pod in truth.pods.values()}
    wished = set()
    for wish in ledger.wishes:
        pod = stored.get(wish.uid)
        if wish.deleted:
            if pod is not None:
                yield f"pod {wish.name} ({wish.uid}) was deleted and is still there: {pod.status.phase}"
        elif wish.created and not wish.delete_asked:
            wished.add(wish.uid)
            if pod is None:
                yield f"pod {wish.name} ({wish.uid}) was created, not deleted, and is not there"
            elif pod.status.phase is not PodPhase.RUNNING:
                why = f"{pod.status.reason} {pod.status.message}".strip()
                yield f"pod {wish.name} is {pod.status.phase}, not Running ({why})"
        elif not wish.created:
            yield f"the creation of pod {wish.name} has no answer yet"
    for uid in sorted(stored.keys() - wished):
        yield f"pod {stored[uid].name} ({uid}, {stored[uid].status.phase}) is there, but nobody wants it"


def _nodes(truth: Truth) -> Iterator[str]:
    pods = {pod.uid: pod for pod in truth.pods.values()}
    for node in truth.nodes.values():
        pod = pods.get(node.status.pod_uid)
        if pod is None or pod.status.bound_node_uid != node.uid:
            yield f"node {node.name} ({node.status.phase}) has no purpose"
        elif node.status.phase is not NodePhase.CLAIMED:
            yield f"node {node.name} of pod {pod.name} is {node.status.phase}"


def _instances(truth: Truth) -> Iterator[str]:
    live = {i.id for i in truth.instances if i.state not in (InstanceState.TERMINATED, InstanceState.SHUTTING_DOWN)}
    known = {node.status.instance_id for node in truth.nodes.values()} - {""}
    for instance_id in sorted(live - known):
        yield f"instance {instance_id} has no node"
    for instance_id in sorted(known - live):
        yield f"the node of instance {instance_id} has lost it"


def _running(truth: Truth) -> Iterator[str]:
    """Each Running pod runs on its own node's agent, and nothing else runs anywhere."""
    places = {node.private_ip: node.status.pod_uid for node in truth.nodes.values()}
    running = {
        agent["host"]: run["uid"]
        for agent in truth.agents
        for run in agent["runs"]
        if not run["stopped"] and not agent["off_at"]
    }
    for host, uid in sorted(places.items() - running.items()):
        yield f"pod {uid} should run on {host or 'a node without address'}, but does not"
    for host, uid in sorted(running.items() - places.items()):
        yield f"pod {uid} runs on {host}, which is not its node"


# ---------------------------------------------------------------- never


def broken(truth: Truth, ledger: Ledger, witness: Witness) -> list[str]:
    """What was wrong at any time of the run; empty when nothing was."""
    found = [*ledger.wrong, *witness.wrong, *_agents(truth, witness), *_runs(truth, witness), *_ends(truth, witness)]
    for wish in ledger.wishes:
        if wish.created and wish.uid not in witness.seen:
            found.append(f"pod {wish.name} ({wish.uid}) was acknowledged and never existed")
        if wish.uid in witness.removed and not wish.delete_asked:
            found.append(f"pod {wish.name} ({wish.uid}) is gone though nobody deleted it")
    if witness.pods != truth.pods or witness.nodes != truth.nodes:
        found.append("a watch of the store has told something else than the store holds")
    return found


def _agents(truth: Truth, witness: Witness) -> Iterator[str]:
    for agent in truth.agents:
        host = agent["host"]
        uids = {run["uid"] for run in agent["runs"]}
        if len(uids) > 1:
            yield f"{host} has served two pods: {sorted(uids)}"
        if agent["tokens"] != sorted(agent["tokens"]):
            yield f"{host} has obeyed an older owner after a newer one: {agent['tokens']}"
        for _, revision in agent["tokens"]:
            if revision not in witness.maps:
                yield f"{host} has obeyed a token of revision {revision}, which no map has had"


def _runs(truth: Truth, witness: Witness) -> Iterator[str]:
    runs: dict[str, list[tuple[float, float, str]]] = defaultdict(list)
    for agent in truth.agents:
        for run in agent["runs"]:
            # An instance that has ended runs nothing any more.
            runs[run["uid"]].append((run["started"], run["stopped"] or agent["off_at"] or FOREVER, agent["host"]))
    for uid, found in runs.items():
        found.sort()
        for (_, ended, host), (started, _, other) in pairwise(found):
            if started < ended:
                yield f"pod {uid} was started on {other} while it ran on {host}"
        if len(found) > 1:
            yield f"pod {uid} was started {len(found)} times, though no fault of this run ends an instance"
        if uid not in witness.seen:
            yield f"pod {uid} was started on {found[0][2]}, but never was in the store"
        if uid in witness.removed and max(ended for _, ended, _ in found) > witness.removed[uid]:
            yield f"pod {uid} was removed while it ran on {found[-1][2]}"


def _ends(truth: Truth, witness: Witness) -> Iterator[str]:
    """A node is Terminated only when its instance has ended."""
    off_at = {agent["host"]: agent["off_at"] or FOREVER for agent in truth.agents}
    for uid, (host, seen_at) in witness.ended_nodes.items():
        if host and off_at.get(host, FOREVER) > seen_at:
            yield f"node {uid} was called Terminated while its instance {host} ran"
