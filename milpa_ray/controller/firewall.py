"""Keeps the cloud's firewall in line with the settings and with the ports that pods declare.

All is looked at anew after a takeover and every ten minutes, since others may have changed it; in between only the
instances whose pod's ports have changed. With all ports open to the own network there is nothing to do for pods, and
they are not even read. Groups that no pod needs are removed late: the cloud refuses while an instance is in them.

What Services open is not decided here; groups that are no business of this duty are left on the instances.
"""

import asyncio
import logging
from dataclasses import dataclass
from typing import Any

from milpa_ray.api.meta import ObjectReference
from milpa_ray.api.pod import Pod
from milpa_ray.controller.deps import CoordinatorDeps
from milpa_ray.controller.leadership import Leadership
from milpa_ray.controller.pacing import Backoff
from milpa_ray.controller.view import KeyView
from milpa_ray.errors import Invalid, MilpaError, Retryable
from milpa_ray.keys import prefix_end
from milpa_ray.planner.firewall import (
    NODE_GROUP,
    OpenPort,
    groups_of_instance,
    node_rules,
    port_rules,
    ports_group,
    surplus_groups,
    unit_ports,
)
from milpa_ray.planner.snapshot import Versioned
from milpa_ray.ports import Firewall, InstanceState

log = logging.getLogger(__name__)

_HAS_PORTS = b'"ports":['
"""Every stored pod with unit ports holds this, so that the others need not be parsed."""


@dataclass(frozen=True, slots=True)
class BoundPorts:
    """A pod's instance (empty while it has none) and the ports that its units declare."""

    pod: ObjectReference
    instance_id: str
    ports: frozenset[OpenPort]


NO_PORTS = BoundPorts(ObjectReference(), "", frozenset())
"""Stands for every pod that asks nothing of the firewall."""


def bound_ports(value: bytes) -> BoundPorts:
    """What a stored pod asks of the firewall.

    Raises:
        ValueError: it is no pod.
    """
    pod = Pod.from_json(value)
    reference = ObjectReference(kind=Pod.KIND, name=pod.name, uid=pod.uid)
    return BoundPorts(reference, pod.status.bound_instance_id, unit_ports(pod))


class FirewallDuty:
    """Runs while its leadership lasts."""

    def __init__(self, deps: CoordinatorDeps, leadership: Leadership, firewall: Firewall) -> None:
        self._deps = deps
        self._leadership = leadership
        self._firewall = firewall
        self._policy = deps.firewall_policy
        self._changed = asyncio.Event()
        self._of_instance: dict[str, BoundPorts] = {}
        self._dirty: set[str] = set()
        self._groups: dict[str, str] = {}
        self._present: dict[str, frozenset[str]] = {}
        self._base: tuple[str, ...] = ()
        self._ranges: tuple[str, ...] = ()
        self._error = ""
        objects = deps.keys.objects
        self._view: KeyView[BoundPorts] = KeyView(
            deps.store, (objects, prefix_end(objects)), self._decode, self._on_pod, self._backoff()
        )

    def _backoff(self) -> Backoff:
        return Backoff(self._deps.rng, self._deps.limits.retry_first_s, self._deps.limits.retry_max_s)

    def _decode(self, key: str, value: bytes) -> BoundPorts | None:
        parsed = self._deps.keys.parse(key)
        if parsed is None or parsed.kind != "pod":
            return None
        known = self._view.items.get(key)
        if _HAS_PORTS not in value and (known is None or known.obj is NO_PORTS):
            return NO_PORTS
        return bound_ports(value)

    def _on_pod(self, _key: str, before: Versioned[BoundPorts] | None, after: Versioned[BoundPorts] | None) -> None:
        old = before.obj if before is not None else NO_PORTS
        new = after.obj if after is not None else NO_PORTS
        if new.instance_id != old.instance_id:
            # The old one is never used again, so the group may stay on it until its end.
            self._of_instance.pop(old.instance_id, None)
        if new.instance_id and new.ports != self._of_instance.get(new.instance_id, NO_PORTS).ports:
            self._of_instance[new.instance_id] = new
            self._dirty.add(new.instance_id)
            self._changed.set()

    # ------------------------------------------------------------ loop

    async def run(self) -> None:
        """Does the duty until cancelled or deposed."""
        async with asyncio.TaskGroup() as tasks:
            if not self._policy.open_to_vpc:
                tasks.create_task(self._view.run())
                await self._view.synced.wait()
            await self._keep()

    async def _keep(self) -> None:
        backoff = self._backoff()
        loop = asyncio.get_running_loop()
        look_at = loop.time()
        while True:
            try:
                await self._leadership.check()
                if loop.time() >= look_at:
                    await self._look()
                    look_at = loop.time() + self._deps.limits.reconcile_s
                await self._open_ports()
                self._error = ""
                backoff.reset()
            except MilpaError as error:
                self._error = str(error)
                log.warning("firewall: %s; trying again", error)
                await backoff.sleep()
                continue
            try:
                async with asyncio.timeout_at(look_at):
                    await self._changed.wait()
            except TimeoutError:
                pass

    async def _look(self) -> None:
        """Compares everything with what the cloud has, and mends it."""
        self._ranges = tuple(await self._firewall.own_ranges())
        await self._firewall.set_group(NODE_GROUP, node_rules(self._policy, self._ranges))
        self._base = await self._firewall.node_groups()
        self._groups = dict(await self._firewall.groups())
        wanted = {ports_group(bound.ports): bound.ports for bound in self._of_instance.values() if bound.ports}
        for name in sorted(wanted):
            await self._set_ports_group(name, wanted[name])
        instances = await self._deps.compute.list_instances()
        alive = [i for i in instances if i.state in (InstanceState.PENDING, InstanceState.RUNNING)]
        self._present = {i.id: frozenset(i.security_groups) for i in alive}
        self._dirty |= self._of_instance.keys() & self._present.keys()
        for name in surplus_groups(self._groups, wanted):
            if await self._firewall.remove_group(name):
                del self._groups[name]

    async def _set_ports_group(self, name: str, ports: frozenset[OpenPort]) -> None:
        try:
            self._groups[name] = await self._firewall.set_group(name, port_rules(ports, self._ranges))
        except Invalid as error:  # told to the pods that ask for it, when their turn comes
            log.error("firewall: %s", error)
            self._groups.pop(name, None)

    async def _open_ports(self) -> None:
        """Puts the instances whose pods' ports have changed into the groups that open them."""
        self._changed.clear()
        for instance_id in sorted(self._dirty):
            self._dirty.discard(instance_id)  # first: what changes while the cloud is called is looked at again
            bound = self._of_instance.get(instance_id)
            if bound is None:
                continue
            try:
                await self._open(bound)
            except Retryable:
                self._dirty.add(instance_id)
                raise
            except MilpaError as error:
                self._groups.pop(ports_group(bound.ports), None)  # it may be gone: the next pod asks again
                log.error("firewall: ports of pod %s: %s", bound.pod.name, error)
                self._deps.recorder.record(bound.pod, "firewall-failed", str(error))

    async def _open(self, bound: BoundPorts) -> None:
        ports = []
        if bound.ports:
            name = ports_group(bound.ports)
            if name not in self._groups:
                self._groups[name] = await self._firewall.set_group(name, port_rules(bound.ports, self._ranges))
            ports.append(self._groups[name])
        present = self._present.get(bound.instance_id, frozenset(self._base))
        wanted = groups_of_instance(ports, self._groups, self._base, present)
        if wanted != present:
            await self._firewall.assign(bound.instance_id, wanted)
            self._present[bound.instance_id] = wanted

    def dump(self) -> dict[str, Any]:
        """State for people who debug."""
        return {
            "groups": len(self._groups),
            "instances with ports": len(self._of_instance),
            "waiting": len(self._dirty),
            "error": self._error,
        }
