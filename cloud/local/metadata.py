"""EC2's instance metadata service for local instances, version 2: what an instance may learn of itself.

Instances reach it where they would on EC2 (the network leads its link-local address here); it tells them apart by their
addresses. It only tells what the records say, and changes nothing.
"""

import hashlib
import hmac
import json
import secrets
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import BaseServer
from typing import Any

from cloud.local.records import InstanceRecord

MAX_TOKEN_S = 21_600
MAX_AT_A_TIME = 64
"""Requests answered at the same time; more are hung up on, and their callers ask again."""
REQUEST_TIMEOUT_S = 2.0
_TOKEN = "X-aws-ec2-metadata-token"  # noqa: S105
_TTL = "X-aws-ec2-metadata-token-ttl-seconds"

Lookup = Callable[[str], InstanceRecord | None]
"""The living instance that has this address."""


def answer(record: InstanceRecord, path: str) -> str | None:
    """What ``path`` below ``meta-data/`` says to this instance; None when there is nothing of that name."""
    match path:
        case "instance-id":
            return record.id
        case "instance-type":
            return record.instance_type
        case "instance-life-cycle":
            return "spot" if record.spot else "on-demand"
        case "local-ipv4":
            return record.private_ip
        case "local-hostname":
            return record.private_dns
        case "placement/availability-zone":
            return record.zone
        case "spot/instance-action" if record.interruption_at:
            return json.dumps({"action": "terminate", "time": _time(record)})
        case "spot/termination-time" if record.interruption_at:
            return _time(record)
        case _:
            return None


def _time(record: InstanceRecord) -> str:
    return datetime.fromtimestamp(record.interruption_at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class MetadataServer:
    """Listens on a free port of the loopback from the start, and answers from ``serve`` to ``close``."""

    def __init__(self) -> None:
        self._http = _Server(("127.0.0.1", 0), _Handler)
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        return int(self._http.server_address[1])

    def serve(self, lookup: Lookup) -> None:
        """Answers in threads of its own; ``lookup`` is called from them."""
        self._http.lookup = lookup
        self._thread = threading.Thread(target=self._http.serve_forever, name="metadata", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends it. Blocks for half a second at most."""
        if self._thread is not None:
            self._http.shutdown()
            self._thread.join()
        self._http.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    lookup: Lookup

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(address, handler)
        self._secret = secrets.token_bytes(32)
        self._turns = threading.BoundedSemaphore(MAX_AT_A_TIME)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._turns.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._turns.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A caller that hung up; nothing to say."""

    def token(self, address: str, seconds: int) -> str:
        """Good for this address until then. It holds all that is needed to check it, so none need be kept."""
        until = int(time.monotonic()) + seconds
        return f"{until}.{self._sign(address, until)}"

    def accepts(self, address: str, token: str) -> bool:
        until, _, signature = token.partition(".")
        return (
            until.isascii()
            and until.isdigit()
            and hmac.compare_digest(signature.encode(), self._sign(address, int(until)).encode())
            and time.monotonic() < int(until)
        )

    def _sign(self, address: str, until: int) -> str:
        return hmac.new(self._secret, f"{address} {until}".encode(), hashlib.sha256).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    server_version = "EC2ws"
    sys_version = ""
    timeout = REQUEST_TIMEOUT_S

    def __init__(self, request: Any, client_address: Any, server: BaseServer) -> None:
        assert isinstance(server, _Server)
        self._service = server
        super().__init__(request, client_address, server)

    def do_PUT(self) -> None:
        ttl = self.headers.get(_TTL, "")
        if self.path != "/latest/api/token" or not (ttl.isascii() and ttl.isdigit() and 1 <= int(ttl) <= MAX_TOKEN_S):
            return self._answer(400)
        return self._answer(200, self._service.token(self.client_address[0], int(ttl)))

    def do_GET(self) -> None:
        address = self.client_address[0]
        if not self._service.accepts(address, self.headers.get(_TOKEN, "")):
            return self._answer(401)
        record = self._service.lookup(address)
        prefix = "/latest/meta-data/"
        found = answer(record, self.path[len(prefix) :]) if record and self.path.startswith(prefix) else None
        return self._answer(404) if found is None else self._answer(200, found)

    def _answer(self, code: int, text: str = "") -> None:
        self.send_response(code)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        """Quiet: agents ask every few seconds."""
