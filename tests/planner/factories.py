"""Makes planner inputs with everything defaulted but what a test is about."""

from datetime import UTC, datetime, timedelta
from typing import Any

from cloud.catalog import load_catalog
from milpa_ray.api.meta import ObjectMeta
from milpa_ray.api.node import Node, NodePhase, NodeSpec, NodeStatus
from milpa_ray.api.pod import (
    NetworkAddress,
    Pod,
    PodPhase,
    PodSpec,
    PodStatus,
    RestartPolicy,
    Unit,
    UnitRunning,
    UnitState,
    UnitStatus,
    UnitTerminated,
    UnitWaiting,
)
from milpa_ray.limits import Limits
from milpa_ray.planner.choose import Offers
from milpa_ray.planner.snapshot import AgentFacts, Case, CasePlan, Snapshot, Versioned

NOW = datetime(2024, 5, 1, 12, tzinfo=UTC)
OFFERS = Offers(load_catalog("us-east-1"), "t3.nano")
LIMITS = Limits()


ADDRESSES = (NetworkAddress(type="PrivateIP", address="10.0.0.1"),)


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def make_pod(phase: PodPhase = PodPhase.WAITING, **changes: Any) -> Pod:
    """A pod named web with uid u1; ``changes`` go to the spec or to the status by their names."""
    metadata = {k: changes.pop(k) for k in list(changes) if k in ObjectMeta.model_fields}
    spec = {k: changes.pop(k) for k in list(changes) if k in PodSpec.model_fields and k != "phase"}
    wish = changes.pop("wish", PodPhase.RUNNING)
    bound: dict[str, Any] = {"bound_node_name": "n1", "bound_node_uid": "n1", "addresses": ADDRESSES}
    if phase == PodPhase.WAITING:
        bound = {}
    return Pod(
        metadata=ObjectMeta(**{"name": "web", "uid": "u1", "creation_timestamp": ago(60), "generation": 1} | metadata),
        spec=PodSpec(**{"units": (Unit(name="main", image="i"),), "phase": wish} | spec),
        status=PodStatus(**{"phase": phase, "last_phase_change": ago(10)} | bound | changes),
    )


def make_node(phase: NodePhase = NodePhase.CLAIMED, name: str = "n1", **changes: Any) -> Node:
    """A node for pod web, with an instance once it is past Creating."""
    facts: dict[str, Any] = {} if phase == NodePhase.CREATING else {"instance_id": "i-1"}
    terminate = changes.pop("terminate", False)
    status = {
        "phase": phase,
        "last_phase_change": changes.pop("since", ago(10)),
        "bound_pod_name": "web",
        "pod_uid": "u1",
        "price_usd_hour": 0.01,
        "addresses": ADDRESSES if facts else (),
    }
    return Node(
        metadata=ObjectMeta(name=name, uid=name, creation_timestamp=changes.pop("created", ago(60))),
        spec=NodeSpec(instance_type="t3.nano", terminate=terminate),
        status=NodeStatus(**status | facts | changes),
    )


def unit(state: str, code: int | None = 0, name: str = "main", *, start_failure: bool = False) -> UnitStatus:
    """A unit's status: ``state`` is running, terminated or waiting."""
    states = {
        "running": UnitState(running=UnitRunning(started_at=ago(5))),
        "terminated": UnitState(terminated=UnitTerminated(exit_code=code, finished_at=ago(1))),
        "waiting": UnitState(waiting=UnitWaiting(reason="ErrImagePull: gone", start_failure=start_failure)),
    }
    return UnitStatus(name=name, state=states[state])


def ready(*units: UnitStatus, uid: str = "u1", generation: int = 1, **changes: Any) -> AgentFacts:
    """An agent that holds the pod and reports ``units``."""
    told: dict[str, Any] = {"ready": True, "pod_uid": uid, "generation": generation, "units": units}
    return AgentFacts(**told | changes)


EMPTY_AGENT = AgentFacts(ready=True, units=())


def make_case(pod: Pod | None, *nodes: Node, agent: AgentFacts | None = None) -> Case:
    """``agent`` is node n1's."""
    return Case(
        "web",
        Versioned("/o/0001/pod/web", pod, 7) if pod is not None else None,
        tuple(Versioned(f"/o/0001/node/{n.name}", n, 8) for n in nodes),
        {"n1": agent} if agent is not None else {},
        "fresh",
        "/o/0001/node/fresh",
    )


def make_snapshot(*cases: Case, offers: Offers = OFFERS, limits: Limits = LIMITS) -> Snapshot:
    return Snapshot(NOW, cases, offers, limits)


def written(plan: CasePlan) -> dict[str, Pod | Node | None]:
    """What the plan writes, by the last part of the key."""
    return {write.key.rsplit("/", 1)[1]: write.obj for write in plan.writes}


POLICIES = tuple(RestartPolicy)
