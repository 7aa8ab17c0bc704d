"""The simulated store, cloud, machines and network keep their ports' contracts, with their faults and without."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from milpa_ray.api.pod import RestartPolicy
from milpa_ray.errors import AgentRefused, AgentUnreachable, CloudUnavailable, Compacted, StaleToken, StoreUnavailable
from milpa_ray.ports import (
    AgentAddress,
    DesiredPod,
    InstanceState,
    LaunchCall,
    Token,
    bootstrap_identity,
    node_identity,
)
from milpa_ray.store.port import Compare, Put, Txn
from tests.simulation.machines import BEHAVIOUR, Machine
from tests.simulation.toys import Hand, a_pod
from tests.simulation.world import Faults, Ports, World

CALL = LaunchCall("token", 3, "t3.nano", "zone-a", subnet="subnet-1")


def quiet() -> Faults:
    faults = Faults()
    faults.heal()
    return faults


def live(steps: Callable[[Ports], Awaitable[None]], faults: Faults | None = None, seed: int = 1) -> World:
    """Runs ``steps`` as a process without duties; what it raises is raised here."""
    world = World(seed, faults or quiet())
    world.invariants.batches |= {CALL.token, "one"}
    world.invariants.bearers |= dict.fromkeys(("i-0001", "i-0002", "i-0003"), "a node")
    outcome: list[BaseException | None] = []

    async def program(ports: Ports) -> None:
        try:
            await steps(ports)
            outcome.append(None)
        except BaseException as error:
            outcome.append(error)
        await asyncio.Event().wait()

    async def drive() -> None:
        world.place("p", "toy", program)
        while not outcome:  # noqa: ASYNC110
            await asyncio.sleep(1)

    world.run(drive())
    if outcome[0] is not None:
        raise outcome[0]
    return world


async def machine_of(ports: Ports) -> tuple[Machine, AgentAddress]:
    (instance,) = await ports.compute.launch(LaunchCall("one", 1, "t3.nano", "zone-a", subnet="subnet-1"))
    while instance.id not in ports.world.machines:  # noqa: ASYNC110
        await asyncio.sleep(1)
    machine = ports.world.machines[instance.id]
    return machine, AgentAddress(instance.private_ip, bootstrap_identity(machine.batch))


# ---------------------------------------------------------------- store


def test_lost_answer_applies_and_says_unknown():
    async def steps(ports: Ports) -> None:
        ports.world.faults.store.lost_answer = 1.0
        with pytest.raises(StoreUnavailable):
            await ports.store.commit(Txn((), (Put("k", b"v"),)))
        assert (await ports.store.get("k")).value == b"v"

    live(steps)


def test_late_commit_applies_after_the_error():
    async def steps(ports: Ports) -> None:
        ports.world.faults.store.late_commit = 1.0
        with pytest.raises(StoreUnavailable):
            await ports.store.commit(Txn((Compare("k", 0),), (Put("k", b"v"),)))
        assert await ports.store.get("k") is None
        await asyncio.sleep(ports.world.faults.store.late_s)
        assert (await ports.store.get("k")).value == b"v"

    live(steps)


def test_watch_loses_and_repeats_nothing_however_often_it_is_torn():
    async def steps(ports: Ports) -> None:
        ports.world.faults.store.torn = 0.5
        seen: list[int] = []

        async def follow() -> None:
            async for batch in ports.store.watch("a", "b", 1):
                seen.extend(int(change.entry.value) for change in batch.changes)

        follower = asyncio.create_task(follow())
        for number in range(50):
            await ports.store.commit(Txn((), (Put("a1", b"%d" % number),)))
            await asyncio.sleep(0.3)
        await asyncio.sleep(60)
        assert seen == list(range(50))
        follower.cancel()

    live(steps)


def test_watch_that_was_away_while_the_store_was_compacted_says_so():
    async def steps(ports: Ports) -> None:
        for _ in range(5):
            await ports.store.commit(Txn((), (Put("a1", b""),)))
        await ports.store.compact(await ports.store.revision())
        with pytest.raises(Compacted):
            await anext(ports.store.watch("a", "b", 2))

    live(steps)


# ---------------------------------------------------------------- cloud


def test_launch_is_idempotent_also_when_the_first_answer_was_lost():
    async def steps(ports: Ports) -> None:
        ports.world.faults.cloud.lost_answer = 1.0
        with pytest.raises(CloudUnavailable):
            await ports.compute.launch(CALL)
        ports.world.faults.cloud.lost_answer = 0.0
        again = await ports.compute.launch(CALL)
        assert [instance.launch_index for instance in again] == [0, 1, 2]
        assert len(ports.world.cloud.instances) == 3

    live(steps)


def test_listing_lags_but_the_ledger_does_not():
    async def steps(ports: Ports) -> None:
        await ports.compute.launch(CALL)
        ports.world.faults.cloud.stale, ports.world.faults.cloud.stale_s = 1.0, 1_000.0
        assert not await ports.compute.list_instances()
        assert len(ports.world.cloud.instances) == 3

    live(steps)


def test_instance_lives_from_pending_to_terminated_and_is_forgotten_later():
    async def steps(ports: Ports) -> None:
        machine, _ = await machine_of(ports)
        ids = [machine.instance.id]
        assert await ports.compute.terminate([*ids, "i-unknown"]) == {ids[0]: InstanceState.SHUTTING_DOWN}
        await asyncio.sleep(10)
        assert [state for _, state in machine.instance.history] == [
            InstanceState.PENDING,
            InstanceState.RUNNING,
            InstanceState.SHUTTING_DOWN,
            InstanceState.TERMINATED,
        ]
        assert [i.state for i in await ports.compute.list_instances()] == [InstanceState.TERMINATED]
        await asyncio.sleep(100)
        assert not await ports.compute.list_instances()
        assert await ports.compute.terminate(ids) == {}

    live(steps)


# ---------------------------------------------------------------- agents


def test_agent_refuses_a_lower_token_also_after_a_crash():
    async def steps(ports: Ports) -> None:
        machine, address = await machine_of(ports)
        machine.token = Token(1, 7)
        machine.crash_agent(1.0)
        await asyncio.sleep(2)
        with pytest.raises(StaleToken):
            await ports.dialer.dial(address).hello(Token(1, 6))

    live(steps)


def test_bootstrap_certificate_opens_nothing_after_enrolment():
    async def steps(ports: Ports) -> None:
        machine, address = await machine_of(ports)
        machine.enroll(Token(1, 1), "n1")
        with pytest.raises(AgentUnreachable):
            await anext(ports.dialer.dial(address).watch())
        own = AgentAddress(address.host, node_identity("n1"))
        assert (await anext(ports.dialer.dial(own).watch())).units == ()

    live(steps)


def test_stopped_pod_is_never_started_again_there():
    async def steps(ports: Ports) -> None:
        machine, _ = await machine_of(ports)
        machine.dispatch(Token(1, 1), a_pod())
        await asyncio.sleep(3)
        assert machine.running
        await machine.stop(Token(1, 1), "uid-web", 1.0)
        assert machine.hello(Token(1, 1)).stopped
        with pytest.raises(AgentRefused):
            machine.dispatch(Token(1, 2), a_pod())
        await asyncio.sleep(60)
        assert not machine.running

    live(steps)


def test_stop_before_the_dispatch_refuses_it():
    async def steps(ports: Ports) -> None:
        machine, _ = await machine_of(ports)
        await machine.stop(Token(1, 1), "uid-web", 0.0)
        with pytest.raises(AgentRefused):
            machine.dispatch(Token(1, 1), a_pod())

    live(steps)


@pytest.mark.parametrize(
    ("behaviour", "policy", "ends"),
    [
        ("run", RestartPolicy.NEVER, "running"),
        ("exit0", RestartPolicy.NEVER, 0),
        ("exit0", RestartPolicy.ON_FAILURE, 0),
        ("exit1", RestartPolicy.NEVER, 1),
        ("badimage", RestartPolicy.ALWAYS, "waiting"),
    ],
)
def test_units_behave_as_their_label_says(behaviour: str, policy: RestartPolicy, ends: object):
    async def steps(ports: Ports) -> None:
        machine, _ = await machine_of(ports)
        pod = a_pod()
        pod = pod.model_copy(
            update={
                "metadata": pod.metadata.model_copy(update={"labels": {BEHAVIOUR: behaviour}}),
                "spec": pod.spec.model_copy(update={"restart_policy": policy}),
            }
        )
        machine.dispatch(Token(1, 1), pod)
        await asyncio.sleep(100)
        state = machine.units["u0"].state
        if state.terminated:
            assert state.terminated.exit_code == ends
        else:
            assert (state.running is not None) == (ends == "running")

    live(steps)


def test_units_are_restarted_as_their_policy_says_and_go_on_without_their_agent():
    async def steps(ports: Ports) -> None:
        machine, _ = await machine_of(ports)
        pod = a_pod()
        labels = pod.metadata.model_copy(update={"labels": {BEHAVIOUR: "exit1"}})
        machine.dispatch(Token(1, 1), pod.model_copy(update={"metadata": labels}))
        machine.crash_agent(1_000.0)
        await asyncio.sleep(100)
        assert machine.units["u0"].restart_count > 2

    live(steps)


def test_doubled_and_late_dispatch_does_nothing_twice():
    async def steps(ports: Ports) -> None:
        machine, address = await machine_of(ports)
        hand = Hand(ports)
        await hand.own_all()
        ports.world.faults.network.doubled = 1.0
        await ports.dialer.dial(address).dispatch(hand.token, DesiredPod(a_pod()))
        await asyncio.sleep(60)
        assert machine.served == {"uid-web"}
        assert machine.units["u0"].restart_count == 0

    live(steps)


def test_watch_ends_when_the_way_is_cut():
    async def steps(ports: Ports) -> None:
        machine, address = await machine_of(ports)
        stream = ports.dialer.dial(address).watch()
        await anext(stream)
        ports.world.network.cut.add((ports.process.name, machine.instance.id))
        with pytest.raises(AgentUnreachable):
            [report async for report in stream]

    live(steps)
