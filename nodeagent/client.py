"""The controllers' side of the agent link: the ports ``AgentDialer`` and ``Agent`` over grpc.aio.

One channel per node; credentials are made once and shared by all. gRPC's errors end here.
"""

from collections.abc import AsyncIterator, Callable
from typing import Any, NoReturn

import grpc
from grpc import aio

from milpa_ray.errors import AgentRefused, AgentUnreachable, StaleToken
from milpa_ray.ports import AGENT_PORT, AgentAddress, AgentReport, DesiredPod, Hello, Token
from nodeagent import wire
from nodeagent.proto import agent_pb2 as pb
from nodeagent.proto import agent_pb2_grpc as pb_grpc

Signer = Callable[[bytes, str], bytes]
"""(signing request PEM, node name) -> certificate PEM for that node alone."""

ENROL_TIMEOUT_S = 20.0
"""For one call of an enrolment, in which the node makes a key: slow on a machine that boots many at once."""
MAX_MESSAGE = 16 * 1024 * 1024
_UNREACHABLE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)
# A dead node is noticed by its missing heartbeats; pings only keep ways through firewalls open and find half-open
# connections. No retries of gRPC's own: the caller checks that it still owns the node before each try.
_OPTIONS: tuple[tuple[str, Any], ...] = (
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 200),
    # Despite its name also the time that a connection with its TLS may take; the deadline of the call is to end it.
    ("grpc.min_reconnect_backoff_ms", 20_000),
    ("grpc.max_reconnect_backoff_ms", 5_000),
    ("grpc.http2.lookahead_bytes", 16_384),
    ("grpc.http2.bdp_probe", 0),
    # Memory: a controller holds thousands of these channels (114 instead of 123 KiB each with both).
    ("grpc.enable_channelz", 0),
    ("grpc.tsi.max_frame_size", 4_096),
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.max_send_message_length", MAX_MESSAGE),
)


class GrpcAgent:
    """See ``ports.Agent``. The channel is made at the first call and kept."""

    def __init__(
        self,
        address: AgentAddress,
        credentials: grpc.ChannelCredentials | None,
        sign: Signer | None = None,
        call_timeout_s: float = 3.0,
    ) -> None:
        self._address = address
        self._credentials = credentials
        self._sign = sign
        self._timeout_s = call_timeout_s
        self._metadata = ((wire.HOST_HEADER, address.host),)
        self._channel: aio.Channel | None = None
        self._stub: Any = None

    async def hello(self, token: Token) -> Hello:
        reply = await self._call("Hello", pb.HelloRequest(token=wire.token_to_wire(token)))
        return Hello(reply.node_name, reply.version, reply.pod_uid, reply.generation, reply.stopped, reply.enrolled)

    async def enroll(self, token: Token, node_name: str) -> None:
        if self._sign is None:
            raise AgentRefused("this controller has no CA to enrol nodes with")
        sent = wire.token_to_wire(token)
        reply = await self._call("Csr", pb.CsrRequest(token=sent, node_name=node_name), ENROL_TIMEOUT_S)
        try:
            certificate = self._sign(reply.csr_pem, node_name)
        except ValueError as error:
            raise AgentRefused(f"{self._address.host} sent a bad signing request: {error}") from error
        request = pb.EnrollRequest(token=sent, node_name=node_name, certificate_pem=certificate)
        await self._call("Enroll", request, ENROL_TIMEOUT_S)

    async def dispatch(self, token: Token, desired: DesiredPod) -> None:
        await self._call("Dispatch", wire.desired_to_wire(token, desired))

    async def watch(self) -> AsyncIterator[AgentReport]:
        try:
            async for report in self._connected().Watch(pb.WatchRequest(), metadata=self._metadata):
                yield self._read(report)
        except aio.AioRpcError as error:
            self._translate(error)
        raise AgentUnreachable(f"agent at {self._address.host} ended the watch")

    async def stop(self, token: Token, pod_uid: str, grace_s: float) -> None:
        request = pb.StopRequest(token=wire.token_to_wire(token), pod_uid=pod_uid, grace_s=grace_s)
        await self._call("Stop", request, grace_s + self._timeout_s)

    async def logs(
        self, unit: str, *, lines: int = 0, limit_bytes: int = 0, follow: bool = False
    ) -> AsyncIterator[bytes]:
        request = pb.LogsRequest(unit=unit, lines=lines, limit_bytes=limit_bytes, follow=follow)
        try:
            async for chunk in self._connected().Logs(request, metadata=self._metadata):
                yield chunk.data
        except aio.AioRpcError as error:
            self._translate(error)

    async def close(self) -> None:
        if self._channel is not None:
            channel, self._channel, self._stub = self._channel, None, None
            await channel.close(None)

    def _read(self, report: pb.Report) -> AgentReport:
        """A node may be anybody's: what it sends is checked."""
        try:
            return wire.report_from_wire(report)
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            raise AgentRefused(f"agent at {self._address.host} sent a malformed report: {error}") from error

    async def _call(self, method: str, request: Any, timeout_s: float | None = None) -> Any:
        try:
            return await getattr(self._connected(), method)(
                request, timeout=self._timeout_s if timeout_s is None else timeout_s, metadata=self._metadata
            )
        except aio.AioRpcError as error:
            self._translate(error)

    def _connected(self) -> Any:
        if self._stub is None:
            host = f"[{self._address.host}]" if ":" in self._address.host else self._address.host
            target = f"{host}:{self._address.port or AGENT_PORT}"
            options = (*_OPTIONS, ("grpc.default_authority", self._address.identity))
            if self._credentials is None:
                self._channel = aio.insecure_channel(target, options=options)
            else:
                options += (("grpc.ssl_target_name_override", self._address.identity),)
                self._channel = aio.secure_channel(target, self._credentials, options=options)
            self._stub = pb_grpc.NodeAgentStub(self._channel)  # type: ignore[no-untyped-call]
        return self._stub

    def _translate(self, error: aio.AioRpcError) -> NoReturn:
        where = f"agent at {self._address.host}"
        if error.code() in _UNREACHABLE:
            raise AgentUnreachable(f"{where} cannot be reached: {error.details()}") from error
        trailers: Any = error.trailing_metadata() or ()
        for key, value in trailers:
            if key == wire.TOKEN_TRAILER:
                term, _, revision = str(value).partition("/")
                raise StaleToken(int(term), int(revision)) from error
        raise AgentRefused(f"{where} refused: {error.details()}") from error


class GrpcDialer:
    """See ``ports.AgentDialer``. Without ``ca_pem`` agents are dialled without TLS."""

    def __init__(
        self,
        ca_pem: bytes | None = None,
        cert_pem: bytes | None = None,
        key_pem: bytes | None = None,
        sign: Signer | None = None,
        call_timeout_s: float = 3.0,
    ) -> None:
        self._credentials = grpc.ssl_channel_credentials(ca_pem, key_pem, cert_pem) if ca_pem else None
        self._sign = sign
        self._call_timeout_s = call_timeout_s

    def dial(self, address: AgentAddress) -> GrpcAgent:
        return GrpcAgent(address, self._credentials, self._sign, self._call_timeout_s)
