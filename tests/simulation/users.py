"""Simulated users: they create, change, stop and delete pods as an API server does, and remember what was promised.

An operation whose answer is lost is tried again until its outcome is known, as the client library does; so at the end
every operation is acknowledged, and the ledger says what must be true.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from milpa_ray.api.meta import ObjectMeta
from milpa_ray.api.pod import Pod, PodPhase, PodSpec, RestartPolicy, Unit
from milpa_ray.errors import StoreUnavailable
from milpa_ray.store.port import Compare, Entry, Put, Txn
from tests.simulation.machines import BEHAVIOUR
from tests.simulation.world import Ports

RETRY_S = 1.0


@dataclass(slots=True)
class Wish:
    """What a user wants of one pod, and what was acknowledged of it."""

    name: str
    uid: str
    behaviour: str
    policy: RestartPolicy
    units: int = 1
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


async def user(ports: Ports, ledger: Ledger, orders: list[Order]) -> None:
    """Carries out the orders, each in its own time."""
    ledger.pending += len(orders)
    async with asyncio.TaskGroup() as group:
        for order in orders:
            group.create_task(_carry_out(ports, ledger, order))


async def _carry_out(ports: Ports, ledger: Ledger, order: Order) -> None:
    await asyncio.sleep(max(0.0, order.at_s - ports.world.loop.time()))
    wish = order.wish
    while order.after is not None and not order.after.deleted:  # noqa: ASYNC110
        await asyncio.sleep(RETRY_S)
    if order.verb == "create":
        await _create(ports, wish)
        wish.created = True
    else:
        while not wish.created:  # noqa: ASYNC110
            await asyncio.sleep(RETRY_S)
        await _change(ports, wish, _CHANGES[order.verb](ports))
        if order.verb == "delete":
            wish.deleted = True
        if order.verb == "stop":
            wish.stopped = True
    ports.world.trace(ports.process, order.verb, wish.name, "acknowledged")
    ledger.pending -= 1


def new_pod(ports: Ports, wish: Wish) -> Pod:
    return Pod(
        metadata=ObjectMeta(
            name=wish.name,
            uid=wish.uid,
            generation=1,
            creation_timestamp=ports.clock.now(),
            labels={BEHAVIOUR: wish.behaviour},
        ),
        spec=PodSpec(
            restart_policy=wish.policy,
            units=tuple(Unit(name=f"u{n}", image="sim") for n in range(wish.units)),
            instance_type="t3.nano",
        ),
    )


async def _create(ports: Ports, wish: Wish) -> None:
    """Creates the pod; waits while its name is taken by another."""
    key, value = ports.keys.pod(wish.name), new_pod(ports, wish).to_json()
    while True:
        try:
            result = await ports.store.commit(Txn((Compare(key, 0),), (Put(key, value),)))
        except StoreUnavailable:
            await asyncio.sleep(RETRY_S)
            continue
        if result.ok:
            return
        entry = result.current[0]
        if entry is not None and Pod.from_json(entry.value).uid == wish.uid:
            return
        await asyncio.sleep(RETRY_S)


async def _change(ports: Ports, wish: Wish, change: Callable[[Pod], Pod]) -> None:
    """Changes the pod by compare-and-swap, if it still exists."""
    key = ports.keys.pod(wish.name)
    entry = await _read(ports, key)
    while entry is not None:
        pod = Pod.from_json(entry.value)
        changed = change(pod)
        if pod.uid != wish.uid or changed == pod:
            return
        try:
            result = await ports.store.commit(Txn((Compare(key, entry.mod_revision),), (Put(key, changed.to_json()),)))
        except StoreUnavailable:
            await asyncio.sleep(RETRY_S)
            entry = await _read(ports, key)
            continue
        if result.ok:
            return
        entry = result.current[0]


async def _read(ports: Ports, key: str) -> Entry | None:
    while True:
        try:
            return await ports.store.get(key)
        except StoreUnavailable:
            await asyncio.sleep(RETRY_S)


def _delete(ports: Ports) -> Callable[[Pod], Pod]:
    def change(pod: Pod) -> Pod:
        if pod.metadata.deletion_timestamp is not None:
            return pod
        return pod.model_copy(
            update={"metadata": pod.metadata.model_copy(update={"deletion_timestamp": ports.clock.now()})}
        )

    return change


def _stop(ports: Ports) -> Callable[[Pod], Pod]:
    def change(pod: Pod) -> Pod:
        if pod.spec.phase == PodPhase.TERMINATED:
            return pod
        spec = pod.spec.model_copy(update={"phase": PodPhase.TERMINATED})
        return _next_generation(pod).model_copy(update={"spec": spec})

    return change


def _update(ports: Ports) -> Callable[[Pod], Pod]:
    def change(pod: Pod) -> Pod:
        units = tuple(unit.model_copy(update={"image": f"sim:{pod.metadata.generation}"}) for unit in pod.spec.units)
        return _next_generation(pod).model_copy(update={"spec": pod.spec.model_copy(update={"units": units})})

    return change


def _next_generation(pod: Pod) -> Pod:
    metadata = pod.metadata.model_copy(update={"generation": pod.metadata.generation + 1})
    return pod.model_copy(update={"metadata": metadata})


_CHANGES = {"delete": _delete, "stop": _stop, "update": _update}
