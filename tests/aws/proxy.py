"""A reverse proxy before moto that makes it behave as AWS does where moto does not: throttling, client tokens,
capacity, responses that lag behind. Tests script its faults and read its record of calls. It serves from threads of
the test's own process and checks no signatures (nor does moto).
"""

import socket
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import urllib3

from tests.aws.buckets import Throttle
from tests.aws.calls import Answer, Call, parse_call, refusal
from tests.aws.faults import Capacity, Effect, Lag, Rule, RuleBook, Shortage, Wanted
from tests.aws.launches import Launches, without
from tests.aws.terminations import terminate

UPSTREAM_TIMEOUT_S = 60.0
_OWN_HEADERS = frozenset({"connection", "content-length", "transfer-encoding", "server", "date", "host"})
_NAME_INSTANCES = ("InstanceId", "ResourceId")


@dataclass(frozen=True, slots=True)
class Seen:
    """One call as it was answered. ``code``: the error code, ``lost`` when the caller got no answer, else empty.
    ``wanted``: what a launch asked for. ``at`` is monotonic."""

    service: str
    action: str
    code: str
    at: float
    wanted: Wanted | None = None


class AwsProxy:
    """``start()``, use ``url`` as the endpoint, ``stop()``."""

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self._pool = urllib3.PoolManager(maxsize=32, retries=False, timeout=UPSTREAM_TIMEOUT_S)
        self.throttle: Throttle | None = Throttle()
        self.rules = RuleBook()
        self.capacity = Capacity()
        self.lag = Lag()
        self._launches = Launches(self._forward, self.capacity, self.lag)
        self._lock = threading.Lock()
        self._seen: list[Seen] = []
        self._server = _Server(self)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def start(self) -> "AwsProxy":
        threading.Thread(target=self._server.serve_forever, args=(0.05,), name="aws-proxy", daemon=True).start()
        return self

    def stop(self) -> None:
        """Ends it; held calls are let go."""
        self.rules.clear()
        self._server.shutdown()
        self._server.server_close()
        self._pool.clear()

    # ------------------------------------------------------------ what tests script and read

    def fail(self, action: str, code: str, **options: Any) -> Rule:
        """The next matching call fails with that code; options as of ``Rule``."""
        return self.rules.add(Rule(action, Effect.ERROR, code, **options))

    def lose_response(self, action: str, **options: Any) -> Rule:
        """The next matching call takes effect, but its answer is lost; options as of ``Rule``."""
        return self.rules.add(Rule(action, Effect.LOSE_RESPONSE, **options))

    def hold(self, action: str, effect: Effect = Effect.PASS, **options: Any) -> Rule:
        """The next matching call waits before it takes effect until the rule is released; options as of ``Rule``."""
        return self.rules.add(Rule(action, effect, held=True, **options))

    def shortage(self, **options: Any) -> Shortage:
        """Launches of a kind are refused; options as of ``Shortage``."""
        return self.capacity.add(Shortage(**options))

    def relent(self) -> None:
        """Everything works again."""
        self.rules.clear()
        self.capacity.clear()

    @property
    def seen(self) -> list[Seen]:
        """All calls so far, in the order in which they were answered."""
        with self._lock:
            return list(self._seen)

    def counts(self) -> Counter[str]:
        """Calls by action, refused ones included."""
        return Counter(seen.action for seen in self.seen)

    # ------------------------------------------------------------ serving

    def handle(self, call: Call) -> Answer | None:
        """The answer; None: the connection is to be cut."""
        answer, code = self._answer(call)
        wanted = self._launches.wanted(call) if call.action == "RunInstances" else None
        with self._lock:
            self._seen.append(Seen(call.service, call.action, code, time.monotonic(), wanted))
        return answer

    def _answer(self, call: Call) -> tuple[Answer | None, str]:
        refused = self.throttle.refuse(call) if self.throttle is not None else None
        if refused is not None:
            return refused, refused.code
        rule = self.rules.take(call)
        if rule is not None:
            rule.wait()
            if rule.effect is Effect.ERROR:
                return rule.answer(call), rule.code
            if rule.effect is Effect.LOSE_REQUEST:
                return None, "lost"
        answer = self._carry_out(call)
        if rule is not None and rule.effect is Effect.LOSE_RESPONSE:
            return None, "lost"
        return answer, answer.code or ("" if answer.status < 300 else str(answer.status))

    def _carry_out(self, call: Call) -> Answer:
        if call.service != "ec2":
            return self._forward(call)
        if call.action == "RunInstances":
            return self._launches.run(call)
        hidden = self.lag.hidden()
        shows = call.action in ("DescribeInstances", "DescribeInstanceStatus")
        named = hidden.intersection(name for prefix in _NAME_INSTANCES for name in call.numbered(prefix))
        if named and (shows or self.lag.refuse_changes):
            return refusal(call, "InvalidInstanceID.NotFound", f"The instance IDs '{', '.join(named)}' do not exist")
        if call.action == "TerminateInstances" and call.parameters.get("DryRun") != "true":
            return terminate(call, self._forward)
        answer = self._forward(call)
        if hidden and shows and answer.status == 200:
            return Answer(200, without(answer.body, hidden), answer.headers)
        return answer

    def _forward(self, call: Call) -> Answer:
        headers = {name: value for name, value in call.headers.items() if name not in _OWN_HEADERS}
        response = self._pool.request(
            call.method, self._upstream + call.path, body=call.body, headers=headers, redirect=False
        )
        kept = tuple((name, value) for name, value in response.headers.items() if name.lower() not in _OWN_HEADERS)
        return Answer(response.status, response.data, kept, _error_code(response.status, response.data))


def _error_code(status: int, body: bytes) -> str:
    if status < 300:
        return ""
    code = body.partition(b"<Code>")[2].partition(b"</Code>")[0]
    if not code and body.startswith(b"{"):
        code = body.partition(b'"__type"')[2].partition(b'"')[2].partition(b'"')[0].rpartition(b"#")[2]
    return code.decode(errors="replace") or str(status)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, proxy: AwsProxy) -> None:
        self.proxy = proxy
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A caller that went away is no news; anything else is printed as usual."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        answer = self.server.proxy.handle(parse_call(self.command, self.path, headers, body))
        if answer is None:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.send_response_only(answer.status)
        for name, value in answer.headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = _serve  # noqa: N815

    def log_message(self, *args: Any) -> None:
        """Keeps quiet: ``AwsProxy.seen`` is the log."""
