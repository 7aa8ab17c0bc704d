"""A link whose TLS handshake takes long: one connection has to do. Where many machines boot at once handshakes are
slow, and an attempt that is given up and begun anew makes them slower still."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc

from milpa_ray.pki import CertificateAuthority
from milpa_ray.ports import CONTROLLER_IDENTITY, AgentAddress, node_identity
from nodeagent.client import GrpcDialer
from nodeagent.hollow import Behaviour, serve_hollow
from tests.nodeagent.agents import OWNER

OWN = node_identity("node1")
DELAY_S = 0.3
"""One way, for each piece. A handshake takes both ways, so more than gRPC's first back-off of 0.2 s."""


class SlowWay:
    """Carries connections to ``port``, each piece ``DELAY_S`` late; counts them."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._tasks: set[asyncio.Task[None]] = set()
        self.connections = 0

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._port)
        for source, sink in ((reader, far_writer), (far_reader, writer)):
            self._tasks.add(asyncio.create_task(self._carry(source, sink)))

    async def _carry(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while piece := await source.read(65_536):
                await asyncio.sleep(DELAY_S)
                sink.write(piece)
        except ConnectionError:
            return
        finally:
            sink.close()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def slow_agent(credentials: grpc.ServerCredentials) -> AsyncIterator[tuple[SlowWay, int]]:
    """A hollow agent under TLS, and the slow way's port to it."""
    agents, _, port = await serve_hollow(Behaviour(heartbeat_s=0.2), "127.0.0.1:0", credentials)
    way = SlowWay(port)
    server = await asyncio.start_server(way.connected, "127.0.0.1", 0)
    try:
        yield way, server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await way.close()
        await agents.stop(0)


async def test_a_slow_handshake_is_not_begun_anew() -> None:
    ca = CertificateAuthority.create("test")
    own = ca.issue([OWN], server=True, client=False)
    mine = ca.issue([CONTROLLER_IDENTITY], server=False, client=True)
    credentials = grpc.ssl_server_credentials([(own.key, own.cert)], ca.pair.cert, require_client_auth=True)
    async with slow_agent(credentials) as (way, port):
        dialer = GrpcDialer(ca.pair.cert, mine.cert, mine.key, call_timeout_s=20.0)
        agent = dialer.dial(AgentAddress("127.0.0.1", OWN, port))
        began = asyncio.get_running_loop().time()
        await agent.hello(OWNER)
        assert asyncio.get_running_loop().time() - began >= 3 * DELAY_S  # hello itself goes both ways, too
        assert way.connections == 1
        await agent.close()
