"""Logs: relayed from the agent that runs the pod, or the tail that was saved when it ended.

A user's call carries no token: it changes nothing at the agent.
"""

import contextlib
from collections.abc import AsyncIterator

from milpa_ray.api import LogFile, Node, NodePhase, Pod, PodPhase
from milpa_ray.api.phases import POD_TERMINAL
from milpa_ray.errors import AgentUnreachable, Conflict, Invalid, NotFound, Terminal
from milpa_ray.keys import Keys, prefix_end
from milpa_ray.ports import AgentAddress, AgentDialer, bootstrap_identity, node_identity
from milpa_ray.proto import milpa_pb2 as pb
from milpa_ray.server.cache import WatchCache
from milpa_ray.store.port import Store
from milpa_ray.store.reading import pages

CHUNK_BYTES = 64 << 10
ANSWERING = frozenset({NodePhase.CREATED, NodePhase.AVAILABLE, NodePhase.CLAIMED, NodePhase.CLEANING})


class LogReader:
    """Answers Logs."""

    def __init__(self, store: Store, keys: Keys, cache: WatchCache, dialer: AgentDialer) -> None:
        self._store = store
        self._keys = keys
        self._cache = cache
        self._dialer = dialer

    async def logs(self, request: pb.LogsRequest) -> AsyncIterator[bytes]:
        """The log asked for.

        Raises:
            NotFound: no such pod, node or unit.
            Invalid: the pod has several units and none is named.
            Terminal: the pod has not started yet.
            Conflict: the agent does not answer, or stopped answering in the middle.
        """
        if request.lines < 0 or request.limit_bytes < 0:
            raise Invalid("lines and limit-bytes can't be negative")
        await self._cache.fresh()
        pod = self._cache.get("pod", request.name)
        node = self._cache.get("node", request.name)
        if pod is not None:
            source = self._of_pod(Pod.from_json(pod.json), request)
        elif node is not None:
            source = self._of_node(Node.from_json(node.json), request)
        else:
            source = self._of_the_past(request)
        async with contextlib.aclosing(source):  # type: ignore[type-var]
            async for data in source:
                for at in range(0, len(data), CHUNK_BYTES):
                    yield data[at : at + CHUNK_BYTES]

    # ------------------------------------------------------------ what exists

    async def _of_pod(self, pod: Pod, request: pb.LogsRequest) -> AsyncIterator[bytes]:
        unit = _unit(pod, request.unit)
        ended = pod.status.phase in POD_TERMINAL
        node = self._node_of(pod)
        if node is not None:
            try:
                async for data in self._relay(node, unit, request):
                    yield data
                return
            except AgentUnreachable as error:
                if not ended:
                    raise Conflict(f"the agent on node {node.name!r} does not answer: {error}") from None
        saved = await self._saved(f"{pod.name}.{unit}")
        ours = saved is not None and saved.parent_object.uid in ("", pod.uid)
        if saved is not None and ours and (ended or saved.content):
            yield _tail(saved, request)
        elif ended:
            raise NotFound(
                f"pod {pod.name!r} is {pod.status.phase}{_why(pod)} and no log of its unit {unit!r} was saved"
            )
        else:
            raise Terminal(_no_log(pod))

    def _node_of(self, pod: Pod) -> Node | None:
        """The node whose agent can tell, if there is one."""
        if pod.status.phase is PodPhase.WAITING or not pod.status.bound_node_name:
            return None
        item = self._cache.get("node", pod.status.bound_node_name)
        node = Node.from_json(item.json) if item is not None else None
        if node is None or node.status.phase not in ANSWERING or not node.private_ip:
            return None
        return node if node.status.pod_uid in ("", pod.uid) else None

    async def _of_node(self, node: Node, request: pb.LogsRequest) -> AsyncIterator[bytes]:
        if request.unit:
            raise Invalid(f"{node.name!r} is a node, which has no units; leave the unit out, or name the pod")
        reason = f"node {node.name!r} is {node.status.phase}"
        if node.private_ip and node.status.phase in ANSWERING:
            try:
                async for data in self._relay(node, "", request):
                    yield data
                return
            except AgentUnreachable as error:
                reason = f"the agent on node {node.name!r} does not answer: {error}"
        saved = await self._saved(node.name)
        if saved is None:
            raise Terminal(f"{reason}, and no log of its agent was saved")
        yield _tail(saved, request)

    async def _relay(self, node: Node, unit: str, request: pb.LogsRequest) -> AsyncIterator[bytes]:
        """The agent's stream. ``AgentUnreachable`` only before its first data, ``Conflict`` afterwards."""
        identity = node_identity(node.name)
        if node.status.identity == "bootstrap":
            identity = bootstrap_identity(node.status.batch)
        agent = self._dialer.dial(AgentAddress(node.private_ip, identity))
        started = False
        try:
            stream = agent.logs(unit, lines=request.lines, limit_bytes=request.limit_bytes, follow=request.follow)
            async with contextlib.aclosing(stream):  # type: ignore[type-var]
                async for data in stream:
                    started = True
                    yield data
        except AgentUnreachable as error:
            if not started:
                raise
            raise Conflict(f"the agent on node {node.name} stopped answering: {error}") from None
        finally:
            await agent.close()

    # ------------------------------------------------------------ what was saved

    async def _of_the_past(self, request: pb.LogsRequest) -> AsyncIterator[bytes]:
        """The saved log of a pod or node that is gone."""
        name, unit = request.name, request.unit
        if unit:
            found = {unit: await self._saved(f"{name}.{unit}")}
        else:
            found = {"": await self._saved(name)} | await self._saved_units(name)
        saved = {unit: file for unit, file in found.items() if file is not None}
        if not saved:
            what = f"with a unit {unit!r} " if unit else ""
            raise NotFound(f"there is no pod or node {name!r} {what}and no saved log of one (kept for an hour)")
        if len(saved) > 1:
            raise Invalid(f"pod {name!r} had several units; name one with -u: {', '.join(sorted(saved))}")
        yield _tail(next(iter(saved.values())), request)

    async def _saved(self, name: str) -> LogFile | None:
        entry = await self._store.get(self._keys.other("LogFile", name))
        return LogFile.from_json(entry.value) if entry is not None else None

    async def _saved_units(self, pod_name: str) -> dict[str, LogFile | None]:
        prefix = self._keys.other("LogFile", f"{pod_name}.")
        found: dict[str, LogFile | None] = {}
        async for page in pages(self._store, prefix, prefix_end(prefix), limit=100):
            for entry in page.entries:
                file = LogFile.from_json(entry.value)
                if file.parent_object.name == pod_name:  # a name may hold dots: "web.1" is not a unit of "web"
                    found[entry.key[len(prefix) :]] = file
        return found


def _unit(pod: Pod, wanted: str) -> str:
    """The unit meant. Raises ``NotFound`` or ``Invalid`` with the units that there are."""
    units = [unit.name for unit in pod.spec.units]
    known = units + [unit.name for unit in pod.spec.init_units]
    if wanted:
        if wanted not in known:
            raise NotFound(f"pod {pod.name!r} has no unit {wanted!r}; it has {', '.join(known)}")
        return wanted
    if len(units) != 1:
        raise Invalid(f"pod {pod.name!r} has several units; name one with -u: {', '.join(known)}")
    return units[0]


def _no_log(pod: Pod) -> str:
    """Why a pod that has not ended has no log."""
    if pod.status.phase is PodPhase.RUNNING:
        return f"pod {pod.name!r} is Running, but its node {pod.status.bound_node_name!r} is gone; try again later"
    reason = pod.status.message or pod.status.reason
    return f"pod {pod.name!r} is {pod.status.phase}{f': {reason}' if reason else ''}; it has no log yet"


def _why(pod: Pod) -> str:
    reason = pod.status.message or pod.status.reason
    return f" ({reason})" if reason else ""


def _tail(file: LogFile, request: pb.LogsRequest) -> bytes:
    """The part of a saved log that was asked for."""
    data = file.content.encode()
    if request.lines:
        data = b"".join(data.splitlines(keepends=True)[-request.lines :])
    return data[-request.limit_bytes :] if request.limit_bytes else data
