"""Tags instances with their pod's name and labels, after each list of the instances that lacks some.

Goes by what the cloud lists, so it survives restarts and lost calls without a record of its own. Tags are for people:
they are late rather than in the way of a launch, and what the cloud refuses is told once and left out.
"""

import asyncio
import logging
from collections.abc import Iterable, Mapping

from milpa_ray.api.meta import ObjectReference
from milpa_ray.api.node import Node
from milpa_ray.api.pod import Pod
from milpa_ray.controller.deps import CoordinatorDeps
from milpa_ray.controller.leadership import Leadership
from milpa_ray.errors import Invalid, MilpaError
from milpa_ray.planner.labels import instance_tags, unlabelled
from milpa_ray.planner.snapshot import Versioned
from milpa_ray.ports import Instance

log = logging.getLogger(__name__)

LABEL_MOST = 100
"""Instances of one round; a later list brings the others back."""


class Labels:
    """Runs while its leadership lasts."""

    def __init__(self, deps: CoordinatorDeps, leadership: Leadership) -> None:
        self._deps = deps
        self._leadership = leadership
        self._waiting: dict[str, Versioned[Node]] = {}
        self._done: set[str] = set()
        self._listed = asyncio.Event()

    def note(self, claimed: Iterable[Versioned[Node]], instances: Mapping[str, Instance]) -> None:
        """A list of all instances has come. One that was tagged just now may not show it yet."""
        found = {node.obj.status.instance_id: node for node in unlabelled(claimed, instances)}
        self._done &= instances.keys()
        self._waiting = {instance_id: node for instance_id, node in found.items() if instance_id not in self._done}
        if self._waiting:
            self._listed.set()

    async def run(self) -> None:
        """Tags until cancelled or deposed."""
        while True:
            self._listed.clear()
            try:
                while self._waiting:
                    await self._label([self._waiting.popitem() for _ in range(min(LABEL_MOST, len(self._waiting)))])
            except MilpaError as error:
                log.warning("tagging instances: %s; trying again after the next list", error)
            await self._listed.wait()

    async def _label(self, nodes: list[tuple[str, Versioned[Node]]]) -> None:
        await self._leadership.check()
        tags = {instance_id: instance_tags(stored.obj, await self._pod(stored.obj)) for instance_id, stored in nodes}
        try:
            await self._deps.compute.label(tags)
        except Invalid:
            # The labels of one pod; the others are not to suffer for it.
            for instance_id, stored in nodes:
                await self._label_one(instance_id, stored.obj, tags[instance_id])
        self._done |= tags.keys()

    async def _label_one(self, instance_id: str, node: Node, tags: Mapping[str, str]) -> None:
        try:
            await self._deps.compute.label({instance_id: tags})
        except Invalid as error:
            pod = ObjectReference(kind=Pod.KIND, name=node.status.bound_pod_name, uid=node.status.pod_uid)
            self._deps.recorder.record(pod, "pod-labels-not-copied", f"{error}; the instance has its name only")
            await self._deps.compute.label({instance_id: instance_tags(node, None)})

    async def _pod(self, node: Node) -> Pod | None:
        """The pod that the node holds, unless another of its name has taken its place."""
        entry = await self._deps.store.get(self._deps.keys.pod(node.status.bound_pod_name))
        pod = Pod.from_json(entry.value) if entry is not None else None
        return pod if pod is not None and pod.uid == node.status.pod_uid else None
