"""Phases as data: for each kind, the transitions that exist. Whatever is not listed never happens.

From the manual's "Pod lifecycle" and "Node lifecycle phases". A pod goes back to Waiting when its start failed or its
node was lost and its restart policy asks for another try; terminal phases are never left.
"""

from milpa_ray.api.node import NodePhase as N
from milpa_ray.api.pod import PodPhase as P

POD_TRANSITIONS: dict[P, frozenset[P]] = {
    P.WAITING: frozenset({P.DISPATCHING, P.FAILED, P.TERMINATED}),
    P.DISPATCHING: frozenset({P.RUNNING, P.WAITING, P.FAILED, P.TERMINATED}),
    P.RUNNING: frozenset({P.SUCCEEDED, P.WAITING, P.FAILED, P.TERMINATED}),
    P.SUCCEEDED: frozenset(),
    P.FAILED: frozenset(),
    P.TERMINATED: frozenset(),
}

NODE_TRANSITIONS: dict[N, frozenset[N]] = {
    N.CREATING: frozenset({N.CREATED, N.TERMINATED}),
    N.CREATED: frozenset({N.AVAILABLE, N.TERMINATING, N.TERMINATED}),
    N.AVAILABLE: frozenset({N.CLAIMED, N.TERMINATING, N.TERMINATED}),
    N.CLAIMED: frozenset({N.CLEANING, N.TERMINATED}),
    N.CLEANING: frozenset({N.TERMINATING, N.TERMINATED}),
    N.TERMINATING: frozenset({N.TERMINATED}),
    N.TERMINATED: frozenset(),
}

POD_TERMINAL = frozenset(p for p, after in POD_TRANSITIONS.items() if not after)


def pod_may(before: P, after: P) -> bool:
    """Whether a pod may go from ``before`` to ``after``; staying is always allowed."""
    return before == after or after in POD_TRANSITIONS[before]


def node_may(before: N, after: N) -> bool:
    """Whether a node may go from ``before`` to ``after``; staying is always allowed."""
    return before == after or after in NODE_TRANSITIONS[before]
