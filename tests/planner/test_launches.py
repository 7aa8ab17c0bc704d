"""Launch batches and what the cloud's list means for node records."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milpa_ray.api.node import Node, NodePhase
from milpa_ray.planner.launches import (
    MISSING_S,
    Batch,
    Sighting,
    instance_news,
    launch_kind,
    launched,
    note_missing,
    plan_launches,
)
from milpa_ray.planner.snapshot import Versioned
from milpa_ray.ports import Instance, InstanceState, LaunchCall
from tests.planner.factories import NOW, make_node


def stored(name: str, **changes: object) -> Versioned[Node]:
    phase = changes.pop("phase", NodePhase.CREATING)
    zone = changes.pop("zone", "a")
    node = make_node(phase, name, **changes)  # type: ignore[arg-type]
    placement = node.spec.placement.model_copy(update={"availability_zone": zone})
    return Versioned(name, node.model_copy(update={"spec": node.spec.model_copy(update={"placement": placement})}), 1)


@given(st.lists(st.sampled_from("abc"), max_size=40), st.integers(1, 9))
def test_each_node_is_in_one_batch_of_its_kind(zones: list[str], size: int) -> None:
    nodes = [stored(f"n{i}", zone=zone) for i, zone in enumerate(zones)]
    groups = plan_launches(nodes, size)
    assert sorted(n.key for g in groups for n in g.nodes) == sorted(n.key for n in nodes)
    for group in groups:
        assert 1 <= len(group.nodes) <= size
        assert {n.obj.spec.placement.availability_zone for n in group.nodes} == {group.kind.zone}


def test_a_batch_survives_the_store_unchanged() -> None:
    call = LaunchCall("t", 2, "t3.nano", "a", user_data=b"\x00\xff", tags={"k": "v"}, security_groups=("g1", "g2"))
    batch = Batch(call, ("n1", "n2"))
    assert Batch.from_json(batch.to_json()) == batch


@pytest.mark.parametrize(
    ("asked", "default_gib", "gib"),
    [("", 0, 0), ("", 5, 5), ("60Gi", 5, 60), ("1", 0, 1), ("1Gi", 5, 5), ("61G", 5, 57)],
)
def test_the_volume_is_what_the_pod_asks_but_never_below_the_default(asked: str, default_gib: int, gib: int) -> None:
    node = make_node(NodePhase.CREATING)
    resources = node.spec.resources.model_copy(update={"volume_size": asked})
    node = node.model_copy(update={"spec": node.spec.model_copy(update={"resources": resources})})
    assert launch_kind(node, default_gib).volume_gib == gib


def test_nodes_of_different_volumes_or_credits_share_no_call() -> None:
    plain, other = stored("n1"), stored("n2")
    spec = other.obj.spec.model_copy(update={"cpu_credits": "unlimited"})
    other = Versioned("n2", other.obj.model_copy(update={"spec": spec}), 1)
    assert [len(group.nodes) for group in plan_launches([plain, other], 9)] == [1, 1]


def test_a_launched_node_has_its_instance() -> None:
    instance = Instance("i-9", InstanceState.PENDING, "t", private_ip="10.0.0.9", private_dns="ip-10-0-0-9")
    node = launched(make_node(NodePhase.CREATING), instance, LaunchCall("t", 1, "t3.nano", "z", volume_gib=9), NOW)
    assert (node.status.phase, node.status.instance_id, node.private_ip) == (NodePhase.CREATED, "i-9", "10.0.0.9")
    assert (node.status.identity, node.status.batch, node.status.volume_gib) == ("bootstrap", "t", 9)


class TestNews:
    node = stored("n1", phase=NodePhase.CLAIMED)

    def news(self, *instances: Instance, missing: dict[str, Sighting] | None = None) -> list[NodePhase]:
        found = instance_news([self.node], {i.id: i for i in instances}, missing or {}, NOW)
        return [after.status.phase for _, after in found]

    def test_a_terminated_instance_ends_its_node(self) -> None:
        assert self.news(Instance("i-1", InstanceState.TERMINATED)) == [NodePhase.TERMINATED]

    def test_an_instance_that_is_ending_proves_nothing_yet(self) -> None:
        assert self.news(Instance("i-1", InstanceState.SHUTTING_DOWN, private_ip="10.0.0.1")) == []

    def test_a_new_address_is_taken_over(self) -> None:
        assert self.news(Instance("i-1", InstanceState.RUNNING, private_ip="10.0.0.2")) == [NodePhase.CLAIMED]

    def test_a_list_without_it_proves_nothing_at_first(self) -> None:
        assert self.news() == []
        assert self.news(missing={"i-1": Sighting(2, 0.0)}) == []

    def test_missing_for_long_and_often_it_is_gone(self) -> None:
        counts: dict[str, Sighting] = {}
        for at in (0.0, 1.0, 2.0, MISSING_S - 1):
            counts = note_missing([self.node], {}, counts, at)
            assert self.news(missing=counts) == []
        counts = note_missing([self.node], {}, counts, MISSING_S + 1)
        assert self.news(missing=counts) == [NodePhase.TERMINATED]

    def test_seen_again_it_starts_anew(self) -> None:
        seen = {"i-1": Instance("i-1", InstanceState.RUNNING)}
        assert note_missing([self.node], seen, {"i-1": Sighting(2, 0.0)}, 99.0) == {}
