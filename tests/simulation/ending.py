"""What must be true in the end, when faults have ceased and the controllers have had time to set things right."""

from collections.abc import Iterator

from milpa_ray.api.node import NodePhase
from milpa_ray.api.phases import POD_TERMINAL
from milpa_ray.api.pod import Pod, PodPhase, RestartPolicy
from tests.simulation.cloud import ENDING
from tests.simulation.users import Ledger, Wish
from tests.simulation.world import World


def unmet(world: World, ledger: Ledger) -> list[str]:
    """What is not yet as it must be; empty when all is well."""
    found = [*_pods(world, ledger), *_nodes(world), *_instances(world), *_records(world)]
    if ledger.pending:
        found.append(f"{ledger.pending} operations of users have no answer yet")
    return found


def expected_phases(wish: Wish, interrupted: bool) -> set[PodPhase]:
    """The phases that a pod of this kind may end in. ``interrupted``: an instance was lost under it,
    or was being taken back."""
    never, on_failure = wish.policy == RestartPolicy.NEVER, wish.policy == RestartPolicy.ON_FAILURE
    phases = {PodPhase.RUNNING}
    if wish.behaviour == "badimage" or (wish.behaviour == "exit1" and never):
        phases = {PodPhase.FAILED}
    elif wish.behaviour == "exit0" and (never or on_failure):
        phases = {PodPhase.SUCCEEDED}
    if never and interrupted:
        phases.add(PodPhase.FAILED)
    return phases


def _pods(world: World, ledger: Ledger) -> Iterator[str]:
    stored = {pod.uid: pod for pod in world.invariants.pods.values()}
    removed = world.invariants.removed
    for wish in ledger.wishes.values():
        pod = stored.get(wish.uid)
        if pod is not None:
            yield from _pod(world, wish, pod)
            continue
        if world.invariants.runs.get(wish.uid):
            yield f"pod {wish.name} ({wish.uid}) is gone but runs on {sorted(world.invariants.runs[wish.uid])}"
        if wish.created and wish.uid not in removed:
            yield f"pod {wish.name} ({wish.uid}) was acknowledged and never existed"
        if wish.created and not wish.deleted and not wish.stopped:
            phases = expected_phases(wish, wish.uid in world.invariants.interrupted)
            if removed.get(wish.uid) not in phases & POD_TERMINAL:
                yield f"pod {wish.name} ended as {removed.get(wish.uid)}, not as one of {sorted(phases)}"


def _pod(world: World, wish: Wish, pod: Pod) -> Iterator[str]:
    if pod.metadata.deletion_timestamp is not None:
        yield f"pod {pod.name} ({pod.status.phase}) is deleted but still there: {pod.status.reason}"
        return
    if wish.deleted and wish.uid not in world.invariants.removed:
        yield f"pod {pod.name} ({wish.uid}): its acknowledged deletion is lost"
    phases = expected_phases(wish, wish.uid in world.invariants.interrupted)
    if pod.spec.phase == PodPhase.TERMINATED:
        phases = phases & POD_TERMINAL | {PodPhase.TERMINATED}
    if pod.status.phase not in phases:
        why = f"{pod.status.reason} {pod.status.message}".strip()
        yield f"pod {pod.name} ({wish.behaviour}, {wish.policy}) is {pod.status.phase} ({why}), not {sorted(phases)}"
        return
    places = world.invariants.runs.get(pod.uid, set())
    if pod.status.phase == PodPhase.RUNNING:
        if wish.behaviour == "run" and places != {pod.status.bound_instance_id}:
            yield f"pod {pod.name} is Running on {pod.status.bound_instance_id}, but runs on {sorted(places)}"
        machine = world.machines.get(pod.status.bound_instance_id)
        if machine is None or machine.pod is None or machine.pod.metadata.generation != pod.metadata.generation:
            yield f"pod {pod.name}: its agent does not have generation {pod.metadata.generation}"
    elif places:
        yield f"pod {pod.name} is {pod.status.phase} but runs on {sorted(places)}"


def _nodes(world: World) -> Iterator[str]:
    pods = {pod.uid: pod for pod in world.invariants.pods.values()}
    for key, node in world.invariants.nodes.items():
        pod = pods.get(node.status.pod_uid)
        if pod is None or pod.status.bound_node_uid != node.uid or pod.status.phase in POD_TERMINAL:
            yield f"node {node.name} ({node.status.phase}) has no purpose"
        elif node.status.phase != NodePhase.CLAIMED:
            yield f"node {node.name} of pod {pod.name} is {node.status.phase}"
        elif world.keys.parse(key) is None:
            yield f"node {node.name} lies at a key that is none"


def _instances(world: World) -> Iterator[str]:
    nodes = {node.status.instance_id for node in world.invariants.nodes.values()}
    for instance in world.cloud.instances.values():
        if instance.state not in ENDING and instance.id not in nodes:
            yield f"instance {instance.id} ({instance.state}) has no node"
    live = {instance.id for instance in world.cloud.instances.values() if instance.live}
    for node in world.invariants.nodes.values():
        if node.status.instance_id and node.status.instance_id not in live:
            yield f"node {node.name} ({node.status.phase}) has lost its instance {node.status.instance_id}"


def _records(world: World) -> Iterator[str]:
    for family in ("batch", "condemned"):
        left = [key for key in world.server.entries if key.startswith(world.keys.prefix(family))]
        if left:
            yield f"{len(left)} {family} records are left: {left[:3]}"
