"""Simulated users: they create, change, stop and delete pods through the API servers, and remember what was promised.

An operation whose answer is lost is tried again until its outcome is known, as the client library does; so at the end
every operation is acknowledged, and the ledger says what must be true.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from random import Random
from typing import TypeVar

from milpa_ray.api.meta import ObjectMeta
from milpa_ray.api.pod import Pod, PodPhase, PodSpec, PodSpot, RestartPolicy, SpotPolicy, Unit
from milpa_ray.errors import Retryable
from milpa_ray.proto import milpa_pb2 as pb
from milpa_ray.server.peers import MAX_AGE_S
from tests.simulation.machines import BEHAVIOUR
from tests.simulation.servers import Api, ApiServers
from tests.simulation.world import World

T = TypeVar("T")
RETRY_S = 1.0
SPOTS = (SpotPolicy.NEVER, SpotPolicy.ALWAYS, SpotPolicy.NEVER, SpotPolicy.PREFERRED)


@dataclass(slots=True)
class Wish:
    """What a user wants of one pod, and what was acknowledged of it."""

    name: str
    uid: str
    behaviour: str
    policy: RestartPolicy
    units: int = 1
    spot: SpotPolicy = SpotPolicy.NEVER
    image: int = 1
    created: bool = False
    stopped: bool = False
    deleted: bool = False


@dataclass(frozen=True, slots=True)
class Order:
    """One operation at a time (seconds from the start): create, update, stop, delete. A creation under a used name
    comes ``after`` the deletion of the pod before it."""

    at_s: float
    verb: str
    wish: Wish
    after: Wish | None = None


@dataclass(slots=True)
class Ledger:
    """All wishes of all users, by uid."""

    wishes: dict[str, Wish] = field(default_factory=dict)
    pending: int = 0

    def draw(self, rng: Random, pods: int, span_s: float) -> list[Order]:
        """A script: pods created over the first half, some changed, stopped, deleted or made anew later."""
        orders: list[Order] = []
        bursts = [rng.random() * span_s * 0.5 for _ in range(rng.choice((1, 3, pods)))]
        for number in range(pods):
            start = rng.choice(bursts)
            wish = self._wish(rng, f"pod-{number}", 0)
            wish.spot = SPOTS[number % len(SPOTS)]
            orders.append(Order(start, "create", wish))
            later = start + rng.random() * (span_s - start)
            fate = rng.random()
            if fate < 0.3:
                updates = rng.randint(1, 4)
                orders += [Order(later + n * rng.random() * 20.0, "update", wish) for n in range(updates)]
            elif fate < 0.4:
                orders.append(Order(later, "stop", wish))
            elif fate < 0.7:
                orders.append(Order(later, "delete", wish))
                if rng.random() < 0.5:
                    orders.append(Order(later, "create", self._wish(rng, wish.name, 1), after=wish))
        return orders

    def _wish(self, rng: Random, name: str, life: int) -> Wish:
        behaviour = rng.choices(("run", "exit0", "exit1", "badimage"), (7, 2, 1, 1))[0]
        policy = rng.choice(tuple(RestartPolicy))
        wish = Wish(name, f"uid-{name}-{life}", behaviour, policy, rng.choices((1, 2), (4, 1))[0])
        self.wishes[wish.uid] = wish
        return wish


class User:
    """Carries out orders through the API servers, and reads back what it wrote."""

    def __init__(self, world: World, servers: ApiServers, ledger: Ledger) -> None:
        self._world = world
        self._servers = servers
        self._ledger = ledger

    async def run(self, orders: list[Order]) -> None:
        """Carries out all orders, each in its own time."""
        self._ledger.pending += len(orders)
        async with asyncio.TaskGroup() as group:
            for order in orders:
                group.create_task(self._carry_out(order))

    async def _carry_out(self, order: Order) -> None:
        await asyncio.sleep(order.at_s)
        wish = order.wish
        while order.after is not None and not order.after.deleted:  # noqa: ASYNC110
            await asyncio.sleep(RETRY_S)
        while order.verb != "create" and not wish.created:  # noqa: ASYNC110
            await asyncio.sleep(RETRY_S)
        match order.verb:
            case "create":
                await self._create(wish, order.after)
            case "update":
                await self._update(wish)
            case "stop":
                await self._stop(wish)
            case "delete":
                await self._delete(wish)
        self._world.trace("user", order.verb, wish.name, "acknowledged")
        await self._read_back(wish.name)
        self._ledger.pending -= 1

    async def _create(self, wish: Wish, before: Wish | None) -> None:
        """Creates the pod; waits while its name is taken by the one ``before``, and deletes that again should an early
        try of its creation have taken effect only now."""
        request = pb.WriteRequest(verb=pb.CREATE, objects=[manifest(wish).to_json()], uids=[wish.uid])
        while True:
            result = await self._until_answered(lambda api: api.write(request))
            if result.outcome == pb.CREATED:
                wish.created = True
                return
            self._expect(result, pb.ALREADY_EXISTS, pb.ENDED, pb.FAILED)
            await asyncio.sleep(RETRY_S)
            if before is not None:
                await self._delete(before)

    async def _update(self, wish: Wish) -> None:
        wish.image += 1
        await self._write(wish)

    async def _stop(self, wish: Wish) -> None:
        wish.stopped = True
        await self._write(wish)

    async def _write(self, wish: Wish) -> None:
        """Brings the stored pod to what is wished, unless it is gone or going."""
        pod = manifest(wish)
        pod = pod.model_copy(update={"metadata": pod.metadata.model_copy(update={"uid": wish.uid})})
        while True:
            request = pb.WriteRequest(verb=pb.UPDATE, objects=[pod.to_json()])
            result = await self._until_answered(lambda api, request=request: api.write(request))
            if result.outcome != pb.FAILED:
                self._expect(result, pb.UPDATED, pb.UNCHANGED, pb.NOT_FOUND, pb.CONFLICT, pb.ENDED)
                return
            await asyncio.sleep(RETRY_S)

    async def _delete(self, wish: Wish) -> None:
        request = pb.DeleteRequest(refs=[pb.Ref(kind="Pod", name=wish.name, uid=wish.uid)])
        while True:
            result = await self._until_answered(lambda api: api.delete(request))
            if result.outcome in (pb.DELETED, pb.NOT_FOUND):
                wish.deleted = True
                return
            self._expect(result, pb.CONFLICT, pb.FAILED)
            await asyncio.sleep(RETRY_S)

    async def _until_answered(self, question: Callable[[Api], Awaitable[T]]) -> T:
        while True:
            try:
                return await self._servers.ask(question)
            except Retryable:
                await asyncio.sleep(RETRY_S)

    def _expect(self, result: pb.WriteResult, *outcomes: int) -> None:
        if result.outcome not in outcomes:
            self._world.fail(f"a server answered {pb.Outcome.Name(result.outcome)} for {result.name}: {result.message}")

    async def _read_back(self, name: str) -> None:
        """Any server must show what any has acknowledged before it was asked, and what was committed ``MAX_AGE_S``
        before; none may say that a pod is not there when it is."""
        server, key = self._world.server, self._world.keys.pod(name)
        before, told, asked_at = server.entries.get(key), self._servers.acknowledged.get(name, 0), server.loop.time()
        found = await self._until_answered(lambda api: api.read(name))
        now = server.entries.get(key)
        if before is None:
            return
        if found is None:
            if now is not None and now.create_revision == before.create_revision:
                self._world.fail(f"a server did not show pod {name}, which was there at revision {before.mod_revision}")
            return
        settled = (revision for at, revision in server.written[key] if at <= asked_at - MAX_AGE_S)
        if found.revision < (owed := max(told, *settled, 0)):
            self._world.fail(f"a server showed pod {name} of {found.revision}, after it was at {owed}")


def manifest(wish: Wish) -> Pod:
    """What the user writes."""
    return Pod(
        metadata=ObjectMeta(name=wish.name, labels={BEHAVIOUR: wish.behaviour}),
        spec=PodSpec(
            phase=PodPhase.TERMINATED if wish.stopped else PodPhase.RUNNING,
            restart_policy=wish.policy,
            units=tuple(Unit(name=f"u{n}", image=f"sim:{wish.image}") for n in range(wish.units)),
            instance_type="t3.nano",
            spot=PodSpot(policy=wish.spot),
        ),
    )
