"""A real API server in the test's event loop, on a free loopback port, with real TLS."""

import contextlib
import uuid
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from milpa_ray.certs import ensure_ca, ensure_certs, read_pair
from milpa_ray.client import AsyncClient
from milpa_ray.clock import SystemClock
from milpa_ray.keys import Keys
from milpa_ray.pki import CertificateAuthority, KeyPair
from milpa_ray.ports import API_SERVER_IDENTITY
from milpa_ray.proto import milpa_pb2_grpc
from milpa_ray.server.api import ApiConfig, ApiServer, ServerTls
from milpa_ray.store.port import Store
from tests.server.agents import ScriptedDialer


@dataclass
class Served:
    """A running server and what a test needs around it."""

    server: ApiServer
    client: AsyncClient
    store: Store
    keys: Keys
    dialer: ScriptedDialer
    cert_dir: Path
    ca: CertificateAuthority

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.server.port}"

    def stub(self, pair: KeyPair | None = None) -> Any:
        """gRPC's own stub, with ``pair`` as the certificate (milpactl's by default)."""
        pair = pair or read_pair(self.cert_dir, "client")
        credentials = grpc.ssl_channel_credentials(self.ca.pair.cert, pair.key, pair.cert)
        options = [("grpc.ssl_target_name_override", API_SERVER_IDENTITY)]
        return milpa_pb2_grpc.MilpaStub(grpc.aio.secure_channel(self.endpoint, credentials, options=options))


def new_keys() -> Keys:
    """Keys of a cluster that no other test has."""
    return Keys(f"t{uuid.uuid4().hex[:12]}")


@contextlib.asynccontextmanager
async def serving(
    store: Store,
    cert_dir: Path,
    *,
    keys: Keys | None = None,
    port: int = 0,
    controllers: Mapping[str, Any] | None = None,
) -> AsyncIterator[Served]:
    """A server on ``store`` and a client of it."""
    keys, dialer = keys or new_keys(), ScriptedDialer()
    ca = await ensure_ca(store, keys, SystemClock(), cert_dir)
    ensure_certs(cert_dir, ca, ["testhost"])
    pair = read_pair(cert_dir, "server")
    tls = ServerTls(ca.pair.cert, pair.cert, pair.key)
    state = controllers or {}
    server = ApiServer(
        store, keys, dialer, ApiConfig(tls, "127.0.0.1", port), clock=SystemClock(), dump_controllers=lambda: state
    )
    await server.start()
    client = AsyncClient([f"127.0.0.1:{server.port}"], cert_dir=cert_dir)
    try:
        yield Served(server, client, store, keys, dialer, cert_dir, ca)
    finally:
        await client.close()
        await server.stop()
