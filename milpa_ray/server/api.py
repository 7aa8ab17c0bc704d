"""The API server as a whole: wires cache, writes, reads, logs and dump to gRPC over mutual TLS.

It decides nothing and keeps nothing that the store does not have: any number of them run side by side.
"""

import contextlib
import uuid
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import grpc

from milpa_ray import __version__
from milpa_ray.clock import Clock, SystemClock
from milpa_ray.errors import Terminal
from milpa_ray.events import EventRecorder
from milpa_ray.keys import Keys
from milpa_ray.ports import AgentDialer
from milpa_ray.proto import milpa_pb2 as pb
from milpa_ray.proto import milpa_pb2_grpc
from milpa_ray.server.cache import WatchCache
from milpa_ray.server.commit_queue import CommitQueue
from milpa_ray.server.deletes import Deleter
from milpa_ray.server.dump import DumpControllers, Dumper
from milpa_ray.server.interceptor import Context, Guard
from milpa_ray.server.logs import LogReader
from milpa_ray.server.offers import CloudDefaults, OffersReader
from milpa_ray.server.peers import Peers
from milpa_ray.server.reads import Reader
from milpa_ray.server.staleness import QuickReads
from milpa_ray.server.turns import Turns
from milpa_ray.server.writes import WriteContext, Writer
from milpa_ray.store.port import Store

DEFAULT_PORT = 54555
MAX_CALLS = 2_000
"""Calls at a time, watches included; more are refused with RESOURCE_EXHAUSTED."""
MAX_MESSAGE_BYTES = 64 << 20
STOP_GRACE_S = 0.5

_OPTIONS = [
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
]


@dataclass(frozen=True, slots=True)
class ServerTls:
    """PEM texts: the CA that clients' certificates must be signed by, the server's certificate and its key."""

    ca: bytes
    cert: bytes
    key: bytes


@dataclass(frozen=True, slots=True)
class ApiConfig:
    """Where and how to serve; port 0 takes a free one, ``event_ttl_s`` (seconds) is how long events are kept.
    ``name`` tells this server from the others of the cluster, and is to outlast restarts. ``cloud`` is what clients are
    told of the settings.

    Without ``tls`` anyone who reaches the port may do anything.
    """

    tls: ServerTls | None
    host: str = "0.0.0.0"  # noqa: S104  clients are on other machines too; mutual TLS guards the port
    port: int = DEFAULT_PORT
    event_ttl_s: int = 3600
    name: str = field(default_factory=lambda: str(uuid.uuid4()))
    cloud: CloudDefaults = field(default_factory=CloudDefaults)

    @property
    def address(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _no_controllers() -> Mapping[str, Any]:
    return {}


class ApiServer:
    """One API server. ``start`` and ``stop`` in a running event loop; it can't be started again."""

    def __init__(
        self,
        store: Store,
        keys: Keys,
        dialer: AgentDialer,
        config: ApiConfig,
        *,
        clock: Clock | None = None,
        dump_controllers: DumpControllers = _no_controllers,
    ) -> None:
        clock = clock or SystemClock()
        self._config = config
        self._cache = WatchCache(store, keys)
        self._peers = Peers(store, keys, self._cache, config.name)
        self._quick = QuickReads(self._cache, self._peers)
        self._queue = CommitQueue(store, self._peers.entered, self._quick.acknowledge)
        self._events = EventRecorder(store, keys, clock, "api-server", ttl_s=config.event_ttl_s)
        turns = Turns(clock)
        reader = Reader(store, keys, self._cache, self._quick, turns)
        context = WriteContext(keys, clock, self._cache, self._queue, turns, self._events)
        self._servicer = _Servicer(
            _Identity(store, keys, OffersReader(store, keys, config.cloud)),
            reader,
            Writer(context),
            Deleter(context),
            LogReader(store, keys, self._cache, dialer),
            Dumper(reader, self.state, dump_controllers),
        )
        self._server: grpc.aio.Server | None = None
        self.port = 0
        """The port that is listened on, once started."""

    async def start(self) -> None:
        """Starts to listen. Reads wait until the cache has been filled.

        Raises:
            Terminal: the address can't be listened on, or certificate and key don't fit.
        """
        tls = self._config.tls
        server = grpc.aio.server(
            interceptors=[Guard(tls=tls is not None)], options=_OPTIONS, maximum_concurrent_rpcs=MAX_CALLS
        )
        register: Any = milpa_pb2_grpc.add_MilpaServicer_to_server
        register(self._servicer, server)
        try:
            if tls is None:
                self.port = server.add_insecure_port(self._config.address)
            else:
                credentials = grpc.ssl_server_credentials([(tls.key, tls.cert)], tls.ca, require_client_auth=True)
                self.port = server.add_secure_port(self._config.address, credentials)
        except RuntimeError as error:
            await server.stop(None)
            raise Terminal(
                f"the API server can't listen on {self._config.address}: {error}. Is another server running there?"
            ) from None
        self._cache.start()
        self._peers.start()
        self._quick.start()
        self._queue.start()
        self._events.start()
        await server.start()
        self._server = server

    async def stop(self) -> None:
        """Ends all calls and all tasks."""
        server, self._server = self._server, None
        if server is not None:
            await server.stop(STOP_GRACE_S)
        await self._queue.stop()
        await self._events.stop()
        await self._peers.stop()
        await self._quick.stop()
        await self._cache.stop()

    def state(self) -> dict[str, Any]:
        """The server's own state, for Dump."""
        return {
            "version": __version__,
            "revision": self._cache.revision,
            "objects": self._cache.counts(),
            "watchesResumeFrom": self._cache.history.floor,
            "eventsLost": self._events.lost,
        }


@dataclass(frozen=True, slots=True)
class _Identity:
    """Whose server this is, and from what instances are chosen here."""

    store: Store
    keys: Keys
    offers: OffersReader

    async def version(self) -> pb.VersionReply:
        entry = await self.store.get(self.keys.uuid)
        uuid = entry.value.decode() if entry is not None else ""
        return pb.VersionReply(version=__version__, cluster=self.keys.cluster, cluster_uuid=uuid)


class _Servicer(milpa_pb2_grpc.MilpaServicer):
    """gRPC's methods; each only hands over."""

    def __init__(
        self,
        identity: _Identity,
        reader: Reader,
        writer: Writer,
        deleter: Deleter,
        logs: LogReader,
        dumper: Dumper,
    ) -> None:
        self._identity = identity
        self._reader = reader
        self._writer = writer
        self._deleter = deleter
        self._logs = logs
        self._dumper = dumper

    async def Write(self, request: pb.WriteRequest, context: Context) -> pb.WriteReply:  # noqa: N802
        results = await self._writer.write(request)
        return pb.WriteReply(results=results, revision=max((r.revision for r in results), default=0))

    async def Delete(self, request: pb.DeleteRequest, context: Context) -> pb.WriteReply:  # noqa: N802
        results = await self._deleter.delete(request)
        return pb.WriteReply(results=results, revision=max((r.revision for r in results), default=0))

    async def List(self, request: pb.ListRequest, context: Context) -> AsyncIterator[pb.ListReply]:  # noqa: N802
        async for reply in self._reader.list(request):
            yield reply

    async def Watch(self, request: pb.WatchRequest, context: Context) -> AsyncIterator[pb.WatchReply]:  # noqa: N802
        async for reply in self._reader.watch(request):
            yield reply

    async def Logs(self, request: pb.LogsRequest, context: Context) -> AsyncIterator[pb.LogChunk]:  # noqa: N802
        async with contextlib.aclosing(self._logs.logs(request)) as chunks:  # type: ignore[type-var]
            async for data in chunks:
                yield pb.LogChunk(data=data)

    async def Version(self, request: pb.VersionRequest, context: Context) -> pb.VersionReply:  # noqa: N802
        return await self._identity.version()

    async def Offers(self, request: pb.OffersRequest, context: Context) -> pb.OffersReply:  # noqa: N802
        return await self._identity.offers.offers()

    async def Dump(self, request: pb.DumpRequest, context: Context) -> AsyncIterator[pb.DumpChunk]:  # noqa: N802
        async for chunk in self._dumper.dump(request.what):
            yield chunk
