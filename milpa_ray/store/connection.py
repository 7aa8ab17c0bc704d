"""Connections to etcd's endpoints: addresses, TLS, channel settings, and which endpoint to ask next.

One channel per endpoint with our own choice among them, since one gRPC target for several addresses fails host name
verification. It knows nothing of keys and makes no calls.
"""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar
from urllib.parse import urlsplit

import grpc

from milpa_ray.errors import Invalid

T = TypeVar("T")

DEFAULT_PORT = 2379
CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # A stopped (not dead) member answers nothing; these break its connection after 8 s. etcd allows a ping per 5 s.
    ("grpc.keepalive_time_ms", 6000),
    ("grpc.keepalive_timeout_ms", 2000),
    ("grpc.http2.ping_timeout_ms", 2000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # gRPC's own back-off grows to two minutes; a restarted etcd is to be found at once. The minimum is also the time
    # that one connection attempt may take.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 3000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.enable_http_proxy", 0),
    # Otherwise equal channels share one connection, and the lease thread must have its own.
    ("grpc.use_local_subchannel_pool", 1),
)
STREAM_END: object = grpc.aio.EOF  # type: ignore[attr-defined]  # missing in the type stubs
METADATA = (("hasleader", "true"),)
"""Makes a member that has lost its cluster refuse at once instead of hanging."""


@dataclass(frozen=True, slots=True)
class EtcdConfig:
    """Where etcd is, as in ``server.yml``: endpoints as ``127.0.0.1:2379``, ``http://...`` or ``https://...``, and the
    TLS files' paths (empty: none). Without a scheme an endpoint uses TLS when any file is given."""

    endpoints: tuple[str, ...]
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""

    def targets(self) -> "list[Target]":
        """The endpoints, parsed.

        Raises:
            Invalid: no endpoint, or a malformed one.
        """
        if not self.endpoints:
            raise Invalid("etcd.client.endpoints: no endpoint given")
        return [_target(endpoint, self._has_tls) for endpoint in self.endpoints]

    def credentials(self) -> grpc.ChannelCredentials:
        """TLS credentials from the files.

        Raises:
            Invalid: a file cannot be read, or only one of certificate and key is given.
        """
        if bool(self.cert_file) != bool(self.key_file):
            raise Invalid("etcd.client: certFile and keyFile go together; give both or none")
        return grpc.ssl_channel_credentials(
            _read("caFile", self.ca_file), _read("keyFile", self.key_file), _read("certFile", self.cert_file)
        )

    @property
    def _has_tls(self) -> bool:
        return bool(self.ca_file or self.cert_file or self.key_file)


@dataclass(frozen=True, slots=True)
class Target:
    """One endpoint: gRPC's ``host:port``."""

    address: str
    tls: bool

    def channel(self, config: EtcdConfig) -> grpc.Channel:
        """A blocking channel of its own, for threads."""
        if self.tls:
            return grpc.secure_channel(self.address, config.credentials(), CHANNEL_OPTIONS)
        return grpc.insecure_channel(self.address, CHANNEL_OPTIONS)

    def aio_channel(self, config: EtcdConfig) -> grpc.aio.Channel:
        """A channel on the running event loop."""
        if self.tls:
            return grpc.aio.secure_channel(self.address, config.credentials(), CHANNEL_OPTIONS)
        return grpc.aio.insecure_channel(self.address, CHANNEL_OPTIONS)


class Picker(Generic[T]):
    """Chooses among endpoints: stays with one that works, goes to the next after a failure."""

    def __init__(self, members: Sequence[T]) -> None:
        self._members = list(members)
        self._current = 0

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[T]:
        return iter(self._members)

    @property
    def current(self) -> T:
        return self._members[self._current]

    def failed(self, member: T) -> None:
        """``member`` did not answer. Late reports of one already left change nothing."""
        if member is self.current:
            self._current = (self._current + 1) % len(self._members)


def cancelling() -> bool:
    """Whether the running task is being cancelled; else a CancelledError is gRPC's, whose call was ended by us."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _target(endpoint: str, tls_files: bool) -> Target:
    reason = f"etcd.client.endpoints: {endpoint!r} is none; write host:port, http://host:port or https://host:port"
    parts = urlsplit(endpoint if "://" in endpoint else f"//{endpoint}")
    try:
        port = parts.port or DEFAULT_PORT
    except ValueError:
        raise Invalid(reason) from None
    extra = parts.path.strip("/") or parts.query or parts.fragment or parts.username
    if parts.scheme not in ("", "http", "https") or not parts.hostname or extra:
        raise Invalid(reason)
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return Target(f"{host}:{port}", parts.scheme == "https" or (not parts.scheme and tls_files))


def _read(field: str, path: str) -> bytes | None:
    if not path:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise Invalid(f"etcd.client.{field}: cannot read {path}: {error.strerror}") from None
