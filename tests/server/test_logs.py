"""Logs come from the agent that runs the pod, else from what was saved; and what cannot be is said clearly."""

from typing import Any

import pytest

from milpa_ray.api import LogFile, Node, NodePhase, ObjectReference, Pod, PodPhase
from milpa_ray.api.meta import ObjectMeta
from milpa_ray.api.node import NodeStatus
from milpa_ray.api.pod import NetworkAddress, PodSpec, PodStatus, Unit
from milpa_ray.errors import Conflict, Invalid, NotFound, Terminal
from milpa_ray.keys import slot_of
from milpa_ray.ports import bootstrap_identity, node_identity
from milpa_ray.proto import milpa_pb2 as pb
from milpa_ray.store.port import Put, Txn
from tests.server.serving import Served

IP = "10.1.2.3"


async def put_pod(served: Served, name: str, phase: PodPhase, *units: str, node: str = "n1", **status: Any) -> None:
    pod = Pod(
        metadata=ObjectMeta(name=name, uid=f"uid-{name}"),
        spec=PodSpec(
            units=tuple(Unit(name=unit, image="i") for unit in units or ("main",)),
            init_units=(Unit(name="prepare", image="i"),),
        ),
        status=PodStatus(phase=phase, bound_node_name=node, **status),
    )
    await served.store.commit(Txn(ops=(Put(served.keys.pod(name), pod.to_json()),)))


async def put_node(served: Served, name: str = "n1", phase: NodePhase = NodePhase.CLAIMED, **status: Any) -> None:
    addresses = (NetworkAddress(type="PrivateIP", address=IP),)
    node = Node(metadata=ObjectMeta(name=name), status=NodeStatus(phase=phase, addresses=addresses, **status))
    await served.store.commit(Txn(ops=(Put(served.keys.node(slot_of(name), name), node.to_json()),)))


async def save_log(served: Served, name: str, parent: str, uid: str, content: str) -> None:
    file = LogFile(metadata=ObjectMeta(name=name), parent_object=ObjectReference(name=parent, uid=uid), content=content)
    await served.store.commit(Txn(ops=(Put(served.keys.other("LogFile", name), file.to_json()),)))


async def read(served: Served, name: str, unit: str = "", **options: Any) -> bytes:
    return b"".join([data async for data in served.client.logs(name, unit, **options)])


async def test_a_running_pods_log_is_relayed(memory: Served) -> None:
    await put_pod(memory, "web", PodPhase.RUNNING)
    await put_node(memory)
    agent = memory.dialer.add(node_identity("n1"), IP, main=[b"one\n", b"two\n" * 50_000], prepare=[b"ready\n"])
    assert await read(memory, "web", lines=7, limit_bytes=9, follow=True) == b"one\n" + b"two\n" * 50_000
    assert await read(memory, "web", "prepare") == b"ready\n"
    assert agent.asked == [("main", 7, 9, True), ("prepare", 0, 0, False)]
    assert agent.closed == 2


async def test_a_nodes_own_log_by_the_identity_it_has(memory: Served) -> None:
    await put_node(memory)
    await put_node(memory, "n2", NodePhase.CREATED, identity="bootstrap", batch="b7")
    memory.dialer.add(node_identity("n1"), IP).logs_of[""] = [b"of n1"]
    memory.dialer.add(bootstrap_identity("b7"), IP).logs_of[""] = [b"of n2"]
    assert await read(memory, "n1") == b"of n1"
    assert await read(memory, "n2") == b"of n2"
    with pytest.raises(Invalid, match="has no units"):
        await read(memory, "n1", "main")


async def test_units_must_be_named_when_there_are_several(memory: Served) -> None:
    await put_pod(memory, "two", PodPhase.RUNNING, "a", "b")
    with pytest.raises(Invalid, match=r"name one with -u: a, b"):
        await read(memory, "two")
    with pytest.raises(NotFound, match=r"has no unit 'c'; it has a, b, prepare"):
        await read(memory, "two", "c")


async def test_a_pod_that_has_not_started_says_why(memory: Served) -> None:
    await put_pod(memory, "web", PodPhase.WAITING, node="", message="no instance type fits")
    with pytest.raises(Terminal, match="pod 'web' is Waiting: no instance type fits; it has no log yet"):
        await read(memory, "web")


async def test_an_agent_out_of_reach_is_no_server_out_of_reach(memory: Served) -> None:
    """The client must not go on to the next server: all would say the same."""
    await put_pod(memory, "web", PodPhase.RUNNING)
    await put_node(memory)
    with pytest.raises(Conflict, match="the agent on node 'n1' does not answer: connection refused"):
        await read(memory, "web")
    agent = memory.dialer.add(node_identity("n1"), IP, main=[b"a", b"b"])
    agent.breaks_after = 1
    with pytest.raises(Conflict, match="stopped answering"):
        await read(memory, "web")


async def test_an_ended_pods_log_comes_from_the_agent_or_from_what_was_saved(memory: Served) -> None:
    await put_pod(memory, "job", PodPhase.SUCCEEDED)
    with pytest.raises(NotFound, match="is Succeeded and no log of its unit 'main' was saved"):
        await read(memory, "job")
    await put_pod(memory, "broken", PodPhase.FAILED, message="unit main: ErrImagePull")
    with pytest.raises(NotFound, match=r"is Failed \(unit main: ErrImagePull\) and no log"):
        await read(memory, "broken")
    await save_log(memory, "job.main", "job", "uid-job", "1\n2\n3\n")
    assert await read(memory, "job") == b"1\n2\n3\n"
    await put_node(memory, phase=NodePhase.CLEANING)
    assert await read(memory, "job") == b"1\n2\n3\n"  # the agent does not answer any more
    memory.dialer.add(node_identity("n1"), IP, main=[b"whole"])
    assert await read(memory, "job") == b"whole"


async def test_a_unit_that_printed_nothing_has_an_empty_log(memory: Served) -> None:
    await put_pod(memory, "quiet", PodPhase.SUCCEEDED)
    await save_log(memory, "quiet.main", "quiet", "uid-quiet", "")
    assert await read(memory, "quiet") == b""
    # Of a try before this one it says nothing: why there is no log yet says more.
    await put_pod(memory, "again", PodPhase.WAITING, node="", message="no instance type fits")
    await save_log(memory, "again.main", "again", "uid-again", "")
    with pytest.raises(Terminal, match="no instance type fits"):
        await read(memory, "again")


async def test_what_an_earlier_pod_of_the_name_saved_is_not_this_ones(memory: Served) -> None:
    await put_pod(memory, "job", PodPhase.WAITING, node="")
    await save_log(memory, "job.main", "job", "uid-of-another", "old")
    with pytest.raises(Terminal, match="is Waiting"):
        await read(memory, "job")


async def test_logs_of_what_is_gone(memory: Served) -> None:
    await save_log(memory, "one.main", "one", "u", "1\n2\n3\n")
    await save_log(memory, "one.more.main", "one.more", "u", "of a pod with a dot in its name")
    assert await read(memory, "one") == b"1\n2\n3\n"
    assert await read(memory, "one", lines=2) == b"2\n3\n"
    assert await read(memory, "one", limit_bytes=3) == b"\n3\n"
    assert await read(memory, "one.more", "main") == b"of a pod with a dot in its name"
    await save_log(memory, "one.side", "one", "u", "side")
    with pytest.raises(Invalid, match="name one with -u: main, side"):
        await read(memory, "one")
    await save_log(memory, "n9", "n9", "", "of the agent")
    assert await read(memory, "n9") == b"of the agent"
    with pytest.raises(NotFound, match="there is no pod or node 'nobody'"):
        await read(memory, "nobody")
    with pytest.raises(Invalid, match="negative"):  # asked past the client, which refuses that itself
        await anext(memory.client._stream("Logs", pb.LogsRequest(name="one", lines=-1), 5))
