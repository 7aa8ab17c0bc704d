"""``python -m nodeagent.hollow``: one server that stands in for thousands of node agents, for benchmarks and tests of
the controllers. It speaks the agents' protocol; units are only pretended, in memory.

It listens on all addresses and is dialled as 127.x.y.z: each address is a node of its own (told apart by
``wire.HOST_HEADER``). It keeps the agents' promises on tokens, one pod per node, and stops, and counts the starts of
each pod, so that a second start of one is seen. ``Logs`` of unit ``stats`` answers with the counts as JSON, of unit
``history`` with what each node has run and when, a line of JSON per node.
"""

import argparse
import asyncio
import json
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
from grpc import aio

from milpa_ray import __version__
from milpa_ray.ports import AGENT_PORT
from nodeagent import wire
from nodeagent.proto import agent_pb2 as pb
from nodeagent.proto import agent_pb2_grpc as pb_grpc

WHEEL_SLOTS = 100
MAX_MESSAGE = 16 * 1024 * 1024
STATS = "stats"
HISTORY = "history"
HISTORY_CHUNK = 500
"""Nodes per message."""
IS_OFF = "the instance is off"


@dataclass(frozen=True, slots=True)
class Behaviour:
    """Of all units: they run ``start_delay_s`` after the dispatch, and end with ``exit_code`` after ``run_s`` seconds
    (0: never). ``enrolled`` is what new nodes say of themselves."""

    start_delay_s: float = 0.0
    run_s: float = 0.0
    exit_code: int = 0
    heartbeat_s: float = 10.0
    enrolled: bool = True


@dataclass(slots=True)
class Run:
    """One start of a pod: by whose token, and when (``time.monotonic``; 0: not stopped)."""

    uid: str
    token: tuple[int, int]
    started: float
    stopped: float = 0.0


@dataclass(slots=True, eq=False)
class HollowNode:
    """One node. ``state`` is the unit state that all its units have, as JSON. ``runs`` and ``tokens`` are its history,
    ``refused`` counts calls with an outdated token; ``off_at`` is when its instance ended (``time.monotonic``; 0: not
    yet)."""

    enrolled: bool
    name: str = ""
    token: tuple[int, int] = (0, 0)
    pod_uid: str = ""
    generation: int = 0
    units: tuple[tuple[str, str], ...] = ()
    init_units: tuple[tuple[str, str], ...] = ()
    state: bytes = b""
    init_state: bytes = b""
    sequence: int = 0
    stopped: bool = False
    tombstones: set[str] = field(default_factory=set)
    watchers: set[asyncio.Event] = field(default_factory=set)
    runs: list[Run] = field(default_factory=list)
    tokens: list[tuple[int, int]] = field(default_factory=list)
    refused: int = 0
    off_at: float = 0.0

    def changed(self) -> None:
        self.sequence += 1
        for event in self.watchers:
            event.set()

    def report(self, known: int) -> pb.Report:
        full = known != self.sequence
        return pb.Report(
            sequence=self.sequence,
            pod_uid=self.pod_uid,
            generation=self.generation,
            units_json=_statuses(self.units, self.state) if full else b"",
            init_units_json=_statuses(self.init_units, self.init_state) if full else b"",
            stopped=self.stopped,
        )


class HeartbeatWheel:
    """Wakes each member once per interval, all by one timer, spread evenly over the interval."""

    def __init__(self, interval_s: float) -> None:
        self._slots: list[set[asyncio.Event]] = [set() for _ in range(WHEEL_SLOTS)]
        self._interval_s = interval_s
        self._next = 0
        self._turning: asyncio.Task[None] | None = None

    def join(self, event: asyncio.Event) -> set[asyncio.Event]:
        """Puts ``event`` where it has just been woken; discard it from the answer to leave."""
        if self._turning is None:
            self._turning = asyncio.create_task(self._turn())
        slot = self._slots[self._next - 1]
        slot.add(event)
        return slot

    async def _turn(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            due += self._interval_s / WHEEL_SLOTS
            await asyncio.sleep(max(0.0, due - loop.time()))
            for event in self._slots[self._next]:
                event.set()
            self._next = (self._next + 1) % WHEEL_SLOTS


class HollowAgents(pb_grpc.NodeAgentServicer):
    """All nodes."""

    def __init__(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour
        self._wheel = HeartbeatWheel(behaviour.heartbeat_s)
        self._nodes: dict[str, HollowNode] = {}
        self._starts: Counter[str] = Counter()
        self._calls: Counter[str] = Counter()
        self._closing = False

    def close(self) -> None:
        """Lets the watch streams end."""
        self._closing = True
        for node in self._nodes.values():
            for event in node.watchers:
                event.set()

    def stats(self) -> dict[str, Any]:
        """``starts``: pods begun; ``repeated``: uids begun more than once, on whatever nodes; ``calls`` by method."""
        nodes = self._nodes.values()
        return {
            "nodes": len(self._nodes),
            "pods": len(self._starts),
            "starts": self._starts.total(),
            "repeated": {uid: count for uid, count in self._starts.items() if count > 1},
            "held": sum(bool(node.pod_uid) and not node.stopped and not node.off_at for node in nodes),
            "stopped": sum(node.stopped for node in nodes),
            "watched": sum(bool(node.watchers) for node in nodes),
            "calls": dict(self._calls),
        }

    def history(self) -> Iterator[dict[str, Any]]:
        """What each node has done so far; see ``HollowNode`` and ``Run``."""
        for host, node in self._nodes.items():
            runs = [asdict(run) for run in node.runs]
            yield {"host": host, "runs": runs, "tokens": node.tokens, "refused": node.refused, "off_at": node.off_at}

    def power_off(self, host: str) -> None:
        """The node's instance has ended: nothing runs there any more, and no call is answered."""
        node = self._nodes.setdefault(host, HollowNode(self._behaviour.enrolled))
        node.off_at = node.off_at or time.monotonic()
        node.changed()

    # ------------------------------------------------------------ the protocol

    async def Hello(self, request: pb.HelloRequest, context: Any) -> pb.HelloReply:  # noqa: N802
        node = await self._node("Hello", context, request.token)
        return pb.HelloReply(
            node_name=node.name,
            version=__version__,
            pod_uid=node.pod_uid,
            generation=node.generation,
            stopped=node.stopped,
            enrolled=node.enrolled,
        )

    async def Csr(self, request: pb.CsrRequest, context: Any) -> pb.CsrReply:  # noqa: N802
        from milpa_ray.pki import make_csr

        await self._node("Csr", context, request.token)
        return pb.CsrReply(csr_pem=make_csr(request.node_name[:64])[0])

    async def Enroll(self, request: pb.EnrollRequest, context: Any) -> pb.EnrollReply:  # noqa: N802
        node = await self._node("Enroll", context, request.token)
        node.name, node.enrolled = request.node_name, True
        return pb.EnrollReply()

    async def Dispatch(self, request: pb.DispatchRequest, context: Any) -> pb.DispatchReply:  # noqa: N802
        node = await self._node("Dispatch", context, request.token)
        pod = json.loads(request.pod_json)
        uid, generation = pod["metadata"]["uid"], pod["metadata"].get("generation", 0)
        if node.pod_uid not in ("", uid) or uid in node.tombstones:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"pod {uid} is refused: another or a stopped one")
        if node.pod_uid == uid and node.generation >= generation:
            return pb.DispatchReply()
        fresh = not node.pod_uid
        node.pod_uid, node.generation = uid, generation
        spec = pod.get("spec", {})
        node.units, node.init_units = _names(spec.get("units")), _names(spec.get("initUnits"))
        node.init_state = b'{"terminated":{"exitCode":0,"reason":"Completed"}}'
        if fresh:
            self._starts[uid] += 1
            node.runs.append(Run(uid, node.token, time.monotonic()))
            node.state = b'{"waiting":{"reason":"ContainerCreating"}}'
            node.changed()
            asyncio.get_running_loop().call_later(self._behaviour.start_delay_s, self._run, node)
        else:
            node.changed()
        return pb.DispatchReply()

    async def Watch(self, request: pb.WatchRequest, context: Any) -> AsyncIterator[pb.Report]:  # noqa: N802
        node = await self._node("Watch", context)
        event = asyncio.Event()
        node.watchers.add(event)
        slot = self._wheel.join(event)
        known = -1
        try:
            while not self._closing and not node.off_at:
                event.clear()
                report = node.report(known)
                known = report.sequence
                yield report
                await event.wait()
        finally:
            slot.discard(event)
            node.watchers.discard(event)
        if node.off_at:
            await context.abort(grpc.StatusCode.UNAVAILABLE, IS_OFF)

    async def Stop(self, request: pb.StopRequest, context: Any) -> pb.StopReply:  # noqa: N802
        node = await self._node("Stop", context, request.token)
        node.tombstones.add(request.pod_uid)
        if node.pod_uid == request.pod_uid and not node.stopped:
            node.stopped = True
            node.runs[-1].stopped = time.monotonic()
            node.state = b'{"terminated":{"exitCode":143,"reason":"Error","finishedAt":"%s"}}' % _now()
            node.changed()
        return pb.StopReply()

    async def Logs(self, request: pb.LogsRequest, context: Any) -> AsyncIterator[pb.LogChunk]:  # noqa: N802
        if request.unit == STATS:
            yield pb.LogChunk(data=json.dumps(self.stats()).encode())
            return
        if request.unit == HISTORY:
            lines = [json.dumps(told).encode() + b"\n" for told in self.history()]
            for at in range(0, len(lines), HISTORY_CHUNK):
                yield pb.LogChunk(data=b"".join(lines[at : at + HISTORY_CHUNK]))
            return
        node = await self._node("Logs", context)
        yield pb.LogChunk(data=f"hollow unit {request.unit} of pod {node.pod_uid}\n".encode())

    # ------------------------------------------------------------ pretending

    def _run(self, node: HollowNode) -> None:
        if not node.stopped:
            node.state = b'{"running":{"startedAt":"%s"}}' % _now()
            node.changed()
            if self._behaviour.run_s:
                asyncio.get_running_loop().call_later(self._behaviour.run_s, self._end, node)

    def _end(self, node: HollowNode) -> None:
        if not node.stopped:
            code = self._behaviour.exit_code
            reason = b"Error" if code else b"Completed"
            node.state = b'{"terminated":{"exitCode":%d,"reason":"%s","finishedAt":"%s"}}' % (code, reason, _now())
            node.changed()

    async def _node(self, method: str, context: Any, token: pb.Token | None = None) -> HollowNode:
        self._calls[method] += 1
        host = next((str(value) for key, value in context.invocation_metadata() if key == wire.HOST_HEADER), "")
        node = self._nodes.get(host)
        if node is None:
            node = self._nodes[host] = HollowNode(self._behaviour.enrolled)
        if node.off_at:
            await context.abort(grpc.StatusCode.UNAVAILABLE, IS_OFF)
        if token is not None:
            given = (token.term, token.revision)
            if given < node.token:
                node.refused += 1
                trailer = ((wire.TOKEN_TRAILER, f"{node.token[0]}/{node.token[1]}"),)
                await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "a newer owner was here", trailer)
            if given != node.token:
                node.token = given
                node.tokens.append(given)
        return node


async def serve_hollow(
    behaviour: Behaviour, address: str, credentials: grpc.ServerCredentials | None = None
) -> tuple[aio.Server, HollowAgents, int]:
    """A started server, its nodes, and its port. ``address`` is host:port; port 0 picks a free one."""
    agents = HollowAgents(behaviour)
    server = aio.server(
        options=(
            ("grpc.so_reuseport", 0),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
            ("grpc.max_receive_message_length", MAX_MESSAGE),
        )
    )
    pb_grpc.add_NodeAgentServicer_to_server(agents, server)  # type: ignore[no-untyped-call]
    port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    await server.start()
    return server, agents, port


def _names(units: list[dict[str, Any]] | None) -> tuple[tuple[str, str], ...]:
    # Thousands of pods share few names: kept once.
    return tuple((sys.intern(unit["name"]), sys.intern(unit["image"])) for unit in units or ())


def _statuses(units: tuple[tuple[str, str], ...], state: bytes) -> bytes:
    items = (
        b'{"name":%s,"image":%s,"state":%s}' % (json.dumps(name).encode(), json.dumps(image).encode(), state)
        for name, image in units
    )
    return b"[" + b",".join(items) + b"]"


def _now() -> bytes:
    return datetime.now(UTC).isoformat().encode()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m nodeagent.hollow", description=(__doc__ or "").partition("\n\n")[0]
    )
    add = parser.add_argument
    add("--listen", default="0.0.0.0", help="address to serve on (default: all)")  # noqa: S104
    add("--port", type=int, default=AGENT_PORT, help=f"port to serve on, 0 picks one (default {AGENT_PORT})")
    add("--start-delay-s", type=float, default=0.0, help="from a dispatch until its units run")
    add("--run-s", type=float, default=0.0, help="how long units run (default: for ever)")
    add("--exit-code", type=int, default=0, help="what they end with")
    add("--heartbeat-s", type=float, default=10.0, help="interval of heartbeats (default 10)")
    add("--tls", nargs=3, type=Path, metavar=("CA", "CERT", "KEY"), help="PEM files; the certificate is for all nodes")
    return parser.parse_args()


async def _main(options: argparse.Namespace) -> None:
    credentials = None
    if options.tls:
        ca, cert, key = (path.read_bytes() for path in options.tls)
        credentials = grpc.ssl_server_credentials([(key, cert)], ca, require_client_auth=True)
    behaviour = Behaviour(options.start_delay_s, options.run_s, options.exit_code, options.heartbeat_s)
    server, agents, port = await serve_hollow(behaviour, f"{options.listen}:{options.port}", credentials)
    print(f"hollow agents ready on port {port}", flush=True)
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    await ended.wait()
    agents.close()
    await server.stop(1.0)


if __name__ == "__main__":
    try:
        asyncio.run(_main(_options()))
    except (OSError, RuntimeError) as error:
        sys.exit(f"nodeagent.hollow: {error}")
