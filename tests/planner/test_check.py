"""Plans that must be refused are."""

from milpa_ray.api.node import NodePhase
from milpa_ray.api.pod import PodPhase
from milpa_ray.planner.check import violations
from milpa_ray.planner.snapshot import CasePlan, Write
from tests.planner.factories import make_case, make_node, make_pod

P, N = PodPhase, NodePhase


def refused(*writes: Write, nodes: int = 1) -> list[str]:
    found = [make_node(N.CLAIMED, f"n{i + 1}") for i in range(nodes)]
    return violations(make_case(make_pod(P.RUNNING), *found), CasePlan("web", writes))


POD_KEY, NODE_KEY = "/o/0001/pod/web", "/o/0001/node/n1"


def test_an_illegal_transition() -> None:
    pod = make_pod(P.SUCCEEDED)
    assert "no transition Waiting to Succeeded" in refused(Write(POD_KEY, 7, pod, (P.WAITING, P.SUCCEEDED)))[0]


def test_a_path_that_skips_a_phase() -> None:
    node = make_node(N.CLAIMED)
    assert "no transition Created to Claimed" in refused(Write(NODE_KEY, 8, node, (N.CREATED, N.CLAIMED)))[0]


def test_a_path_that_ends_elsewhere() -> None:
    assert "its path in Running" in refused(Write(POD_KEY, 7, make_pod(P.FAILED), (P.DISPATCHING, P.RUNNING)))[0]


def test_two_live_nodes_for_one_pod() -> None:
    assert "two live nodes" in refused(nodes=2)[0]


def test_a_price_that_is_none() -> None:
    for price in (0.0, -1.0, float("nan"), float("inf")):
        assert "price" in refused(Write(NODE_KEY, 8, make_node(N.CLAIMED, price_usd_hour=price), (N.CLAIMED,)))[0]


def test_a_pod_on_another_pods_node() -> None:
    case = make_case(make_pod(P.RUNNING, uid="u2"), make_node())
    assert "serves another" in violations(case, CasePlan("web"))[0]


def test_two_writes_of_one_key() -> None:
    write = Write(POD_KEY, 7, make_pod(P.RUNNING), (P.RUNNING,))
    assert refused(write, write) == ["two writes of one key"]
