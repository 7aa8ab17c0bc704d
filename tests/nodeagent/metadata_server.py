"""EC2's instance metadata service for tests: version 2 only, over real HTTP. In a test's process, or as a command."""

import argparse
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class MetadataServer(ThreadingHTTPServer):
    """``answers`` maps paths below ``/latest/`` to bodies and may change at any time. ``asked`` counts GETs."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int] = ("127.0.0.1", 0)) -> None:
        super().__init__(address, _Handler)
        self.answers: dict[str, bytes] = {}
        self.tokens: set[str] = set()
        self.asked = 0

    def answers_for(self, address: str) -> dict[str, bytes]:
        """What the caller at that address is told."""
        return self.answers

    @property
    def endpoint(self) -> str:
        host, port = self.server_address[:2]
        return f"http://{host!s}:{port}"


class _Handler(BaseHTTPRequestHandler):
    server: MetadataServer

    def do_PUT(self) -> None:
        seconds = self.headers.get("X-aws-ec2-metadata-token-ttl-seconds", "")
        if self.path != "/latest/api/token" or not seconds.isdigit() or not 1 <= int(seconds) <= 21_600:
            return self._answer(400)
        token = secrets.token_urlsafe(32)
        self.server.tokens.add(token)
        return self._answer(200, token.encode())

    def do_GET(self) -> None:
        self.server.asked += 1
        if self.headers.get("X-aws-ec2-metadata-token") not in self.server.tokens:
            return self._answer(401)
        body = self.server.answers_for(self.client_address[0]).get(self.path.removeprefix("/latest/"))
        return self._answer(404) if body is None else self._answer(200, body)

    def _answer(self, code: int, body: bytes = b"") -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@contextmanager
def metadata_server() -> Iterator[MetadataServer]:
    server = MetadataServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--listen", required=True)
    parser.add_argument("--port", type=int, default=80)
    parser.add_argument("--user-data", type=Path, required=True)
    options = parser.parse_args()
    server = MetadataServer((options.listen, options.port))
    server.answers["user-data"] = options.user_data.read_bytes()
    server.serve_forever()


if __name__ == "__main__":
    main()
