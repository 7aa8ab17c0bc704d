"""The gRPC face of the agent: who may call, the protocol's messages, errors as status codes. Decides nothing."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from grpc import aio

from milpa_ray.errors import AgentRefused, MilpaError, StaleToken
from milpa_ray.ports import CONTROLLER_IDENTITY
from nodeagent import unit_logs, wire
from nodeagent.agent import NodeAgent
from nodeagent.commands import CommandFailed
from nodeagent.proto import agent_pb2 as pb
from nodeagent.proto import agent_pb2_grpc as pb_grpc
from nodeagent.records import Memory
from nodeagent.state_dir import StateDir
from nodeagent.tls import NodeCertificates

log = logging.getLogger("nodeagent.service")

MAX_CALLS = 512
MAX_GRACE_S = 86_400.0
_BEFORE_ENROLMENT = frozenset({"Hello", "Csr", "Enroll", "Logs"})
_SERVER_OPTIONS = (
    ("grpc.so_reuseport", 0),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ("grpc.max_send_message_length", 16 * 1024 * 1024),
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
)


class Gatekeeper(aio.ServerInterceptor):  # type: ignore[type-arg]
    """With TLS: only the controllers' certificate may call, and what changes the node only after enrolment, over a
    connection that was made with the node's own certificate."""

    def __init__(self, certificates: NodeCertificates) -> None:
        self._certificates = certificates
        self._bootstrap_peers: set[str] = set()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(details)
        if handler is None or not self._certificates.enabled:
            return handler
        method = details.method.rpartition("/")[2]
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(
                self._streaming(method, handler.unary_stream), handler.request_deserializer, handler.response_serializer
            )
        return grpc.unary_unary_rpc_method_handler(
            self._unary(method, handler.unary_unary), handler.request_deserializer, handler.response_serializer
        )

    def _unary(self, method: str, behaviour: Callable[..., Any]) -> Callable[..., Any]:
        async def checked(request: Any, context: Any) -> Any:
            await self._check(method, context)
            return await behaviour(request, context)

        return checked

    def _streaming(self, method: str, behaviour: Callable[..., Any]) -> Callable[..., Any]:
        async def checked(request: Any, context: Any) -> AsyncIterator[Any]:
            await self._check(method, context)
            async for item in behaviour(request, context):
                yield item

        return checked

    async def _check(self, method: str, context: Any) -> None:
        names = context.auth_context().get("x509_subject_alternative_name", ())
        if CONTROLLER_IDENTITY.encode() not in names:
            log.warning("refused a call of %s to %s: not a controller's certificate", context.peer(), method)
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, f"only {CONTROLLER_IDENTITY} may call a node agent")
        if not self._certificates.enrolled:
            self._bootstrap_peers.add(context.peer())
            if method not in _BEFORE_ENROLMENT:
                await context.abort(grpc.StatusCode.PERMISSION_DENIED, f"{method}: the node must be enrolled first")
        elif context.peer() in self._bootstrap_peers:
            reason = "this connection was made with the bootstrap certificate: dial the node anew"
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, reason)


class Service(pb_grpc.NodeAgentServicer):
    """The protocol's methods, see agent.proto."""

    def __init__(
        self,
        agent: NodeAgent,
        memory: Memory,
        certificates: NodeCertificates,
        dirs: StateDir,
        heartbeat_s: float,
    ) -> None:
        self._agent = agent
        self._memory = memory
        self._certificates = certificates
        self._dirs = dirs
        self._heartbeat_s = heartbeat_s
        self._followers = unit_logs.Followers()

    async def Hello(self, request: pb.HelloRequest, context: Any) -> pb.HelloReply:  # noqa: N802
        await self._accept(request.token, context)
        found = self._agent.hello()
        return pb.HelloReply(
            node_name=found.node_name,
            version=found.version,
            pod_uid=found.pod_uid,
            generation=found.generation,
            stopped=found.stopped,
            enrolled=found.enrolled,
        )

    async def Csr(self, request: pb.CsrRequest, context: Any) -> pb.CsrReply:  # noqa: N802
        await self._accept(request.token, context)
        await self._check_name(request.node_name, context)
        try:
            return pb.CsrReply(csr_pem=await self._certificates.make_request(request.node_name))
        except CommandFailed as error:
            await context.abort(grpc.StatusCode.INTERNAL, f"no key could be made: {error}")
            raise

    async def Enroll(self, request: pb.EnrollRequest, context: Any) -> pb.EnrollReply:  # noqa: N802
        await self._accept(request.token, context)
        await self._check_name(request.node_name, context)
        try:
            self._certificates.install(request.certificate_pem)
        except ValueError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        self._memory.agent.node_name = request.node_name
        self._memory.agent.enrolled = True
        self._memory.save_agent()
        log.info("enrolled as node %s", request.node_name)
        return pb.EnrollReply()

    async def Dispatch(self, request: pb.DispatchRequest, context: Any) -> pb.DispatchReply:  # noqa: N802
        await self._accept(request.token, context)
        try:
            self._agent.dispatch(wire.desired_from_wire(request))
        except MilpaError as error:
            await _abort(error, context)
        except ValueError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"the pod is malformed: {error}")
        return pb.DispatchReply()

    async def Watch(self, request: pb.WatchRequest, context: Any) -> AsyncIterator[pb.Report]:  # noqa: N802
        known = -1
        with self._agent.changes() as changed:
            while not self._agent.closing:
                changed.clear()
                report = self._agent.report(known)
                known = report.sequence
                yield wire.report_to_wire(report)
                try:
                    async with asyncio.timeout(self._heartbeat_s):
                        await changed.wait()
                except TimeoutError:
                    pass  # time for a heartbeat

    async def Stop(self, request: pb.StopRequest, context: Any) -> pb.StopReply:  # noqa: N802
        await self._accept(request.token, context)
        await self._agent.stop(request.pod_uid, min(max(request.grace_s, 0.0), MAX_GRACE_S))
        return pb.StopReply()

    async def Logs(self, request: pb.LogsRequest, context: Any) -> AsyncIterator[pb.LogChunk]:  # noqa: N802
        runner = self._agent.pod.runner(request.unit) if request.unit else None
        path = self._dirs.log_file(request.unit) if request.unit else self._dirs.agent_log
        if request.unit and runner is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"the pod has no unit {request.unit!r}")

        def ended() -> bool:
            return self._agent.closing or bool(request.unit and self._agent.pod.has_ended(request.unit))

        if not request.follow and request.unit and ended():
            # Controllers save the log of what has ended and then end the instance: who follows gets the rest first.
            await self._followers.gone(request.unit)
        decode = unit_logs.decode_k8s if request.unit else unit_logs.decode_plain
        offset = unit_logs.end_offset(path)
        with self._followers.following(request.unit) if request.follow else contextlib.nullcontext():
            for piece in unit_logs.read(path, decode, request.lines, request.limit_bytes):
                yield pb.LogChunk(data=piece)
            if request.follow:
                async for data in unit_logs.follow(path, offset, decode, ended):
                    yield pb.LogChunk(data=data)

    async def _accept(self, token: pb.Token, context: Any) -> None:
        try:
            self._agent.accept(wire.token_from_wire(token))
        except StaleToken as error:
            await _abort(error, context)

    async def _check_name(self, node_name: str, context: Any) -> None:
        """A node keeps the name that it was enrolled with."""
        own = self._memory.agent.node_name
        if not node_name or (own and own != node_name):
            reason = f"this node is {own}" if own else "node_name is empty"
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, reason)


async def serve(service: Service, certificates: NodeCertificates, address: str) -> tuple[aio.Server, int]:
    """A started server and its port. ``address`` is host:port; port 0 picks a free one.

    Raises:
        RuntimeError: the address cannot be bound.
    """
    server = aio.server(
        interceptors=(Gatekeeper(certificates),), options=_SERVER_OPTIONS, maximum_concurrent_rpcs=MAX_CALLS
    )
    pb_grpc.add_NodeAgentServicer_to_server(service, server)  # type: ignore[no-untyped-call]
    if certificates.enabled:
        port = server.add_secure_port(address, certificates.server_credentials())
    else:
        port = server.add_insecure_port(address)
    await server.start()
    return server, port


async def _abort(error: MilpaError, context: Any) -> None:
    if isinstance(error, StaleToken):
        trailer = ((wire.TOKEN_TRAILER, f"{error.term}/{error.revision}"),)
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error), trailer)
    if isinstance(error, AgentRefused):
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
    await context.abort(grpc.StatusCode.INTERNAL, str(error))
