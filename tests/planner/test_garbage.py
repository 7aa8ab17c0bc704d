"""What may be collected, and above all what may not."""

from milpa_ray.planner.garbage import UUID_TAG, GarbagePlan, Known, plan_garbage
from milpa_ray.ports import Instance, InstanceState


def instance(name: str, uuid: str = "ours", **changes: object) -> Instance:
    facts: dict[str, object] = {"state": InstanceState.RUNNING, "launched_at": 0.0, "tags": {UUID_TAG: uuid}}
    return Instance(name, **facts | changes)  # type: ignore[arg-type]


def collect(
    *instances: Instance, known: tuple[str, ...] = (), tokens: tuple[str, ...] = (), suspects: str = ""
) -> GarbagePlan:
    return plan_garbage(
        instances,
        Known("ours", known, tokens),
        frozenset(suspects.split()),
        now_s=1000.0,
        min_age_s=30.0,
        max_fraction=0.1,
    )


def test_an_unknown_instance_must_be_seen_twice() -> None:
    first = collect(instance("i-1"))
    assert (first.condemned, first.suspects) == ((), {"i-1"})
    assert collect(instance("i-1"), suspects="i-1").condemned == ("i-1",)


def test_known_young_ending_and_batched_instances_are_left() -> None:
    plan = collect(
        instance("i-known"),
        instance("i-young", launched_at=980.0),
        instance("i-ending", state=InstanceState.SHUTTING_DOWN),
        instance("i-batched", token="b"),
        known=("i-known",),
        tokens=("b",),
        suspects="i-known i-young i-ending i-batched",
    )
    assert plan == GarbagePlan()


def test_another_cluster_of_our_name_is_only_reported() -> None:
    plan = collect(instance("i-1", "theirs"), instance("i-2", ""), suspects="i-1 i-2")
    assert (plan.condemned, plan.foreign) == ((), ("i-1", "i-2"))


def test_too_many_unknown_stop_it() -> None:
    many = [instance(f"i-{i}") for i in range(60)]
    known = tuple(f"i-{i}" for i in range(53))
    suspects = " ".join(i.id for i in many)
    plan = collect(*many, known=known, suspects=suspects)
    assert plan.condemned == ()
    assert "7 of 60" in plan.stopped
    assert len(collect(*many, known=tuple(f"i-{i}" for i in range(55)), suspects=suspects).condemned) == 5
