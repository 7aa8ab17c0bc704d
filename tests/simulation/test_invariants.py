"""The invariants catch what they are there for: each test breaks one on purpose."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from milpa_ray.api.node import NodePhase
from milpa_ray.api.pod import PodPhase
from milpa_ray.ports import LaunchCall, Token
from milpa_ray.store.port import Compare, Delete, Put, Txn
from tests.simulation.toys import Hand, a_node, a_pod, elected
from tests.simulation.world import Faults, Ports, Violation, World

Steps = Callable[[Hand], Awaitable[None]]


def quiet() -> Faults:
    faults = Faults()
    faults.heal()
    return faults


def by_hand(steps: Steps, role: str = "shard") -> World:
    """Runs ``steps`` as one process in a world without faults."""
    world, done = World(1, quiet()), asyncio.Event()

    async def program(ports: Ports) -> None:
        hand = Hand(ports)
        await hand.own_all()
        await steps(hand)
        done.set()
        await asyncio.Event().wait()

    async def drive() -> None:
        world.place("hand", role, program)
        await asyncio.wait_for(done.wait(), 300)

    world.run(drive())
    return world


def breaks(steps: Steps, why: str, role: str = "shard") -> None:
    with pytest.raises(Violation, match=why):
        by_hand(steps, role)


def election(seed: int, *, fenced: bool) -> World:
    """Two candidates; whoever leads is paused past its lease again and again."""
    world = World(seed, Faults())

    async def drive() -> None:
        for name in ("a", "b"):
            world.place(name, "coordinator", elected(fenced=fenced))
        rng = world.rng("pauses")
        for _ in range(8):
            await asyncio.sleep(rng.uniform(2, 8))
            world.pause(world.places[rng.choice("ab")], rng.uniform(4, 12))
        await asyncio.sleep(15)

    world.run(drive())
    return world


def test_fenced_leaders_do_no_harm_and_both_lead_at_times():
    for seed in range(10):
        world = election(seed, fenced=True)
        assert len(world.invariants.maps) > 2


def test_unfenced_commit_is_caught():
    with pytest.raises(Violation, match="without the fence"):
        election(1, fenced=False)


def test_same_seed_gives_the_same_trace():
    assert election(3, fenced=True).trace_hash == election(3, fenced=True).trace_hash
    assert election(3, fenced=True).trace_hash != election(4, fenced=True).trace_hash


def test_pod_on_two_nodes_is_caught():
    async def steps(hand: Hand) -> None:
        for instance in await hand.launch("t", 2):
            await hand.dispatch(instance, a_pod())
        await asyncio.sleep(5)

    breaks(steps, "runs on two nodes at once")


def test_leaving_a_node_without_proof_is_caught():
    async def steps(hand: Hand) -> None:
        (instance,) = await hand.launch("t")
        pod = a_pod(phase=PodPhase.RUNNING, bound_node_uid="n1", bound_instance_id=instance)
        await hand.write(hand.put(a_pod()))
        await hand.write(hand.put(pod))
        await hand.dispatch(instance, pod)
        await hand.write(hand.put(a_pod()))

    breaks(steps, "without the proof that it is stopped")


def test_removing_a_pod_that_nobody_deleted_is_caught():
    async def steps(hand: Hand) -> None:
        await hand.write(hand.put(a_pod()))
        await hand.write(Delete(hand.keys.pod("web")))

    breaks(steps, "a write is lost")


def test_overwriting_a_users_wish_is_caught():
    async def steps(hand: Hand) -> None:
        await hand.write(hand.put(a_pod()))
        pod = a_pod()
        labels = pod.metadata.model_copy(update={"labels": {"other": "label"}})
        await hand.write(hand.put(pod.model_copy(update={"metadata": labels})))

    breaks(steps, "an acknowledged write is lost")


def test_illegal_transition_is_caught():
    async def steps(hand: Hand) -> None:
        await hand.write(hand.put(a_pod()))
        await hand.write(hand.put(a_pod(phase=PodPhase.FAILED)))
        await hand.write(hand.put(a_pod(phase=PodPhase.RUNNING)))

    breaks(steps, "no way from Failed to Running")


def test_folded_legal_transitions_are_allowed():
    async def steps(hand: Hand) -> None:
        await hand.write(hand.put(a_pod()))
        await hand.write(hand.put(a_pod(phase=PodPhase.SUCCEEDED)))

    by_hand(steps)


def test_two_claimed_nodes_for_one_pod_are_caught():
    async def steps(hand: Hand) -> None:
        for name in ("n1", "n2"):
            await hand.write(hand.put(a_node(name, NodePhase.CLAIMED)))

    breaks(steps, "claims two nodes")


def test_node_handed_to_a_second_pod_is_caught():
    async def steps(hand: Hand) -> None:
        node = a_node("n1", NodePhase.CLAIMED)
        await hand.write(hand.put(node))
        status = node.status.model_copy(update={"pod_uid": "another"})
        await hand.write(hand.put(node.model_copy(update={"status": status})))

    breaks(steps, "is handed from pod")


def test_node_removed_while_its_instance_lives_is_caught():
    async def steps(hand: Hand) -> None:
        (instance,) = await hand.launch("t")
        put = hand.put(a_node("n1", NodePhase.AVAILABLE, instance=instance))
        await hand.write(put)
        await hand.write(Delete(put.key))

    breaks(steps, "was removed while its instance")


def test_commit_of_one_who_is_not_in_the_map_is_caught():
    async def steps(hand: Hand) -> None:
        hand.ports.process.identities.clear()
        await hand.write(hand.put(a_pod()))

    breaks(steps, "the map does not list it")


def test_write_into_anothers_slots_is_caught():
    async def steps(hand: Hand) -> None:
        entry = b'{"term": 1, "shards": [{"id": "0", "incarnation": "hand", "low": 0, "high": 0}]}'
        compare = Compare(hand.keys.map, hand.token.revision)
        result = await hand.ports.store.commit(Txn((compare,), (Put(hand.keys.map, entry),)))
        hand.token = Token(1, result.revision)
        await hand.write(hand.put(a_pod()))

    breaks(steps, "another shard's slots")


def test_call_with_a_token_never_held_is_caught():
    async def steps(hand: Hand) -> None:
        (instance,) = await hand.launch("t")
        hand.token = Token(1, 999)
        await hand.dispatch(instance, a_pod())

    breaks(steps, "never its own")


def test_call_on_anothers_node_is_caught():
    async def steps(hand: Hand) -> None:
        (instance_id,) = await hand.launch("one")
        await hand.write(hand.put(a_node("n1", NodePhase.CLAIMED, instance=instance_id)))
        await hand.own(0, 1)
        await hand.dispatch(instance_id, a_pod())

    breaks(steps, "another shard's")


def test_launch_sent_again_with_changes_is_caught():
    async def steps(hand: Hand) -> None:
        await hand.launch("t", 1)
        await hand.launch("t", 2)

    breaks(steps, "sent again, but changed")


def test_launch_without_a_record_is_caught():
    async def steps(hand: Hand) -> None:
        await hand.ports.compute.launch(LaunchCall("t", 1, "t3.nano", "zone-a", subnet="subnet-1"))

    breaks(steps, "before it was recorded")


def test_batch_closed_while_an_instance_has_no_node_is_caught():
    async def steps(hand: Hand) -> None:
        await hand.launch("t")
        await hand.write(Delete(hand.keys.prefix("batch") + "t"))

    breaks(steps, "belongs to no node")


def test_condemning_a_nodes_instance_is_caught():
    async def steps(hand: Hand) -> None:
        (instance,) = await hand.launch("t")
        await hand.write(hand.put(a_node("n1", NodePhase.AVAILABLE, instance=instance)))
        await hand.write(Put(hand.keys.prefix("condemned") + instance, b"{}"))

    breaks(steps, "is condemned, but it has a node")


def test_terminating_a_node_in_use_is_caught():
    async def steps(hand: Hand) -> None:
        (instance,) = await hand.launch("t")
        await hand.write(hand.put(a_node("n1", NodePhase.CLAIMED, instance=instance)))
        await hand.ports.compute.terminate([instance])

    breaks(steps, "though its node n1 is Claimed")


def test_failing_program_is_caught():
    async def steps(hand: Hand) -> None:
        raise KeyError("a defect")

    breaks(steps, "a defect")
