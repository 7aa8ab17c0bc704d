"""Who is dialled when: agents that a pod waits for don't queue behind those that run one already."""

import asyncio
import random
from collections.abc import AsyncIterator

import pytest

from milpa_ray.api.meta import ObjectMeta
from milpa_ray.api.node import Node, NodePhase, NodeSpec, NodeStatus
from milpa_ray.api.pod import NetworkAddress
from milpa_ray.controller.links import Dialling, LinkDeps, LinkPool
from milpa_ray.limits import Limits
from milpa_ray.ports import Agent, AgentAddress, AgentReport, DesiredPod, Hello, Token
from tests.waiting import eventually

MOST = 2


class Silent:
    """An agent that answers hello only once it may. Everything else a link does not ask before."""

    def __init__(self, street: "Street", host: str) -> None:
        self._street = street
        self._host = host

    async def hello(self, token: Token) -> Hello:
        self._street.asked.append(self._host)
        await self._street.answers.wait()
        return Hello("", "test", enrolled=True)

    async def watch(self) -> AsyncIterator[AgentReport]:
        yield AgentReport(1)
        await asyncio.Event().wait()

    async def enroll(self, token: Token, node_name: str) -> None:
        raise AssertionError("it is enrolled")

    async def dispatch(self, token: Token, desired: DesiredPod) -> None:
        raise AssertionError("a link dispatches nothing by itself")

    async def stop(self, token: Token, pod_uid: str, grace_s: float) -> None:
        raise AssertionError("a link stops nothing by itself")

    async def logs(
        self, unit: str, *, lines: int = 0, limit_bytes: int = 0, follow: bool = False
    ) -> AsyncIterator[bytes]:
        raise AssertionError("a link reads no logs by itself")
        yield b""

    async def close(self) -> None:
        return None


class Street:
    """Agents at addresses, and who was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answers = asyncio.Event()

    def dial(self, address: AgentAddress) -> Agent:
        return Silent(self, address.host)


def node(name: str, phase: NodePhase, pod: str = "p") -> Node:
    address = NetworkAddress(type="PrivateIP", address=name)
    status = NodeStatus(phase=phase, bound_pod_name=pod, addresses=(address,))
    return Node(metadata=ObjectMeta(name=name, uid=name), spec=NodeSpec(instance_type="t3.nano"), status=status)


@pytest.fixture
async def street() -> Street:
    return Street()


@pytest.fixture
async def pool(street: Street) -> AsyncIterator[LinkPool]:
    made = LinkPool(
        LinkDeps(
            street,
            Limits(),
            random.Random(1),
            lambda: Token(1, 1),
            lambda name: None,
            lambda error: None,
            Dialling(MOST),
            enrol=True,
        )
    )
    yield made
    made.close()


async def test_new_nodes_are_dialled_while_all_places_are_taken_by_old_ones(street: Street, pool: LinkPool) -> None:
    for number in range(MOST + 3):
        pool.follow(node(f"old{number}", NodePhase.CLAIMED), f"old{number}")
    await eventually(lambda: len(street.asked) == MOST)
    for number in range(MOST + 3):
        pool.follow(node(f"new{number}", (NodePhase.CREATED, NodePhase.AVAILABLE)[number % 2]), f"new{number}")
    await eventually(lambda: len(street.asked) == 2 * MOST)
    for _ in range(10):
        await asyncio.sleep(0)
    assert street.asked == ["old0", "old1", "new0", "new1"]
    street.answers.set()
    await eventually(lambda: all(link.agent is not None for link in pool.links.values()))


async def test_idle_nodes_take_no_place_from_those_that_a_pod_waits_for(street: Street, pool: LinkPool) -> None:
    for number in range(MOST):
        pool.follow(node(f"idle{number}", NodePhase.AVAILABLE, pod=""), f"idle{number}")
    await eventually(lambda: len(street.asked) == MOST)
    pool.follow(node("new", NodePhase.CREATED), "new")
    await eventually(lambda: "new" in street.asked)
