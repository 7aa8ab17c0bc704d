"""The phase tables, pair by pair, against the manual's life cycles written out by hand."""

from collections.abc import Mapping
from itertools import product

import pytest

from milpa_ray.api.node import NodePhase
from milpa_ray.api.phases import NODE_TRANSITIONS, POD_TERMINAL, POD_TRANSITIONS, node_may, pod_may
from milpa_ray.api.pod import PodPhase

# From the row's phase to the column's: x may, . may not; staying is always allowed.
POD = """
            Waiting Dispatching Running Succeeded Failed Terminated
Waiting        x         x         .        .        x       x
Dispatching    x         x         x        .        x       x
Running        x         .         x        x        x       x
Succeeded      .         .         .        x        .       .
Failed         .         .         .        .        x       .
Terminated     .         .         .        .        .       x
"""

NODE = """
            Creating Created Available Claimed Cleaning Terminating Terminated
Creating       x        x        .        .        .         .          x
Created        .        x        x        .        .         x          x
Available      .        .        x        x        .         x          x
Claimed        .        .        .        x        x         .          x
Cleaning       .        .        .        .        x         x          x
Terminating    .        .        .        .        .         x          x
Terminated     .        .        .        .        .         .          x
"""


def pairs(table: str) -> dict[tuple[str, str], bool]:
    head, *rows = [line.split() for line in table.strip().splitlines()]
    return {(row[0], column): mark == "x" for row in rows for column, mark in zip(head, row[1:], strict=True)}


@pytest.mark.parametrize(("before", "after"), list(product(PodPhase, PodPhase)))
def test_pod_pair(before: PodPhase, after: PodPhase) -> None:
    assert pod_may(before, after) == pairs(POD)[before, after]


@pytest.mark.parametrize(("before", "after"), list(product(NodePhase, NodePhase)))
def test_node_pair(before: NodePhase, after: NodePhase) -> None:
    assert node_may(before, after) == pairs(NODE)[before, after]


def test_every_phase_has_a_row() -> None:
    assert set(POD_TRANSITIONS) == set(PodPhase)
    assert set(NODE_TRANSITIONS) == set(NodePhase)


def test_terminal_phases_of_pods() -> None:
    assert {PodPhase.SUCCEEDED, PodPhase.FAILED, PodPhase.TERMINATED} == POD_TERMINAL


def reachable(table: Mapping[str, frozenset[str]], first: str) -> set[str]:
    reached, waiting = set[str](), [first]
    while waiting:
        phase = waiting.pop()
        if phase not in reached:
            reached.add(phase)
            waiting += table[phase]
    return reached


def test_every_phase_can_be_reached_from_the_first() -> None:
    pods: dict[str, frozenset[str]] = {before: frozenset(after) for before, after in POD_TRANSITIONS.items()}
    nodes: dict[str, frozenset[str]] = {before: frozenset(after) for before, after in NODE_TRANSITIONS.items()}
    assert reachable(pods, PodPhase.WAITING) == set(PodPhase)
    assert reachable(nodes, NodePhase.CREATING) == set(NodePhase)
