"""Whom the client talks to and how: endpoints, certificates, time-outs and channel settings."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from milpa_ray.client import checks
from milpa_ray.client.attempts import Attempts
from milpa_ray.client.discovery import (
    DEFAULT_ENDPOINTS,
    DEFAULT_PORT,
    default_endpoints,
    named_cert_dir,
    split_endpoints,
)
from milpa_ray.client.tls import credentials
from milpa_ray.errors import Invalid

MAX_MESSAGE_BYTES = 64 << 20

_ENDPOINT = re.compile(r"(?:[^\s/:\[\]]+|\[[0-9A-Fa-f:.]+(?:%\w+)?\]):([0-9]{1,5})")

C = TypeVar("C")


def with_port(endpoint: str) -> str:
    """``host`` or ``host:port`` as ``host:port``; 54555 is the default. Raises ``Invalid`` for anything else."""
    host, colon, _ = endpoint.rpartition(":")
    if endpoint.count(":") > 1 and not endpoint.startswith("["):
        whole = f"[{endpoint}]:{DEFAULT_PORT}"
    elif (colon and not host.startswith("[")) or host.endswith("]"):
        whole = endpoint
    else:
        whole = f"{endpoint}:{DEFAULT_PORT}"
    found = _ENDPOINT.fullmatch(whole)
    if not found or not 0 < int(found[1]) < 65536:
        raise Invalid(f"{endpoint!r} is no endpoint; write HOST or HOST:PORT, such as {DEFAULT_ENDPOINTS[0]}")
    return whole


def _listed(endpoints: str | Sequence[str]) -> tuple[str, ...]:
    texts = [endpoints] if isinstance(endpoints, str) else endpoints
    if not all(isinstance(text, str) for text in texts):
        raise Invalid(f"endpoints: {endpoints!r} is no list of texts; write for example ['{DEFAULT_ENDPOINTS[0]}']")
    if found := split_endpoints(texts):
        return found
    raise Invalid("endpoints: no server is named; name at least one, or leave endpoints out to use MILPA_ENDPOINTS")


def channel_options(*, tls: bool) -> list[tuple[str, int | str]]:
    """Channel settings: big messages, quick notice of a server that hangs, quick reconnects, our name in TLS."""
    from milpa_ray.ports import API_SERVER_IDENTITY

    options: list[tuple[str, int | str]] = [
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.keepalive_time_ms", 10_000),
        ("grpc.keepalive_timeout_ms", 5_000),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2_000),
    ]
    if tls:
        options.append(("grpc.ssl_target_name_override", API_SERVER_IDENTITY))
    return options


class Connection:
    """The settings of one client, and the endpoint that answered its last write."""

    def __init__(
        self,
        endpoints: str | Sequence[str] | None,
        cert_dir: Path | str | None,
        *,
        tls: bool,
        timeout_s: float,
        retry_s: float,
    ) -> None:
        """``endpoints`` and ``cert_dir`` None: those of the environment, else the defaults.

        Raises:
            Invalid: an endpoint is none, or there is not one.
        """
        self.endpoints = tuple(map(with_port, default_endpoints() if endpoints is None else _listed(endpoints)))
        self.preferred = self.endpoints[0]
        self.timeout_s = checks.seconds("timeout_s", timeout_s)
        self._cert_dir = named_cert_dir() if cert_dir is None else Path(cert_dir)
        self._tls = tls
        self._retry_s = checks.seconds("retry_s", retry_s)

    def attempts(self, *, read: bool, retry_s: float | None = None) -> Attempts:
        """The tries of a new call."""
        limit = self._retry_s if retry_s is None else retry_s
        return Attempts(self.endpoints, self.preferred, read=read, retry_s=limit, tls=self._tls)

    def open(self, endpoint: str, secure: Callable[..., C], insecure: Callable[..., C]) -> C:
        """A channel made by one of gRPC's (or gRPC aio's) two functions. Raises ``Invalid`` for bad certificates."""
        options: Any = channel_options(tls=self._tls)
        if self._tls:
            return secure(endpoint, credentials(self._cert_dir), options=options)
        return insecure(endpoint, options=options)
