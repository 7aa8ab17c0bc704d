"""Which endpoint to ask next, and what a gRPC error means. No I/O: the sync and the async client both drive it.

Reads start at a random endpoint; writes stay with the one that answered last. What is unavailable is asked again, the
next endpoint first, until ``retry_s`` have passed; every write carries what makes a repetition harmless.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from milpa_ray.client import checks
from milpa_ray.errors import (
    AlreadyExists,
    ApiUnavailable,
    Conflict,
    Invalid,
    MilpaError,
    NotFound,
    PermissionDenied,
    Retryable,
    Terminal,
    WatchExpired,
)

if TYPE_CHECKING:
    import grpc

    from milpa_ray.clock import Clock

FIRST_DELAY_S = 0.05
MAX_DELAY_S = 2.0

_BY_CODE: dict[str, type[MilpaError]] = {
    "NOT_FOUND": NotFound,
    "ALREADY_EXISTS": AlreadyExists,
    "INVALID_ARGUMENT": Invalid,
    "FAILED_PRECONDITION": Terminal,
    "ABORTED": Conflict,
    "OUT_OF_RANGE": WatchExpired,
    "PERMISSION_DENIED": PermissionDenied,
    "UNAUTHENTICATED": PermissionDenied,
    "RESOURCE_EXHAUSTED": Retryable,
}


def unavailable(code: str) -> bool:
    """Whether another try, or another server, may answer."""
    return code in ("UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED")  # a stopping server cancels


def translate(error: grpc.RpcError) -> MilpaError:
    """The domain's error for gRPC's."""
    code, details = error.code().name, error.details() or "no reason given"
    if unavailable(code):
        return ApiUnavailable(details)
    if code == "UNIMPLEMENTED":
        return Terminal(f"the API server does not know this call; is it an older version? ({details})")
    return _BY_CODE[code](details) if code in _BY_CODE else MilpaError(f"{code.lower()}: {details}")


def _plain(details: str) -> str:
    """What went wrong, without gRPC's preamble that repeats the address."""
    return re.sub(r"^failed to connect to all addresses; last error: \w+: (ipv[46]:\S+: )?", "", details)


def _clock() -> Clock:
    # Late: it imports asyncio, which `milpactl --help` has no use for.
    from milpa_ray.clock import SystemClock

    return SystemClock()


class Attempts:
    """The tries of one call, or of one life of a watch."""

    def __init__(
        self, endpoints: Sequence[str], preferred: str, *, read: bool, retry_s: float, tls: bool = True
    ) -> None:
        self._endpoints = list(endpoints)
        if read:
            random.shuffle(self._endpoints)
        elif preferred in self._endpoints:
            at = self._endpoints.index(preferred)
            self._endpoints = self._endpoints[at:] + self._endpoints[:at]
        self._retry_s = retry_s
        self._tls = tls
        self._clock = _clock()
        self._errors: dict[str, str] = {}
        self._next = 0
        self._round = 0
        self._started = self._clock.monotonic()

    def answered(self) -> None:
        """``endpoint`` has answered: time and back-off begin anew there (for streams that live long)."""
        at = self._next % len(self._endpoints)
        self._endpoints = self._endpoints[at:] + self._endpoints[:at]
        self._next = self._round = 0
        self._started = self._clock.monotonic()

    @property
    def endpoint(self) -> str:
        """Whom to ask now."""
        return self._endpoints[self._next % len(self._endpoints)]

    def failed(self, error: grpc.RpcError) -> float:
        """Notes that ``endpoint`` failed and turns to the next one. Seconds to wait before it is asked.

        Raises:
            MilpaError: asking again is of no use, or nobody has answered for ``retry_s`` (``ApiUnavailable``).
        """
        if not unavailable(error.code().name):
            raise translate(error) from None
        self._errors[self.endpoint] = _plain(error.details() or "no reason given")
        self._next += 1
        if self._next % len(self._endpoints):
            return 0.0
        waited = self._clock.monotonic() - self._started
        if waited >= self._retry_s:
            raise self._exhausted() from None
        delay = min(FIRST_DELAY_S * 2.0**self._round, MAX_DELAY_S, self._retry_s - waited)
        self._round += 1
        return delay

    def _exhausted(self) -> ApiUnavailable:
        tried = "; ".join(f"{endpoint}: {reason}" for endpoint, reason in self._errors.items())
        return ApiUnavailable(f"no API server answers ({tried}). {self._remedy(tried.lower())}")

    def _remedy(self, reasons: str) -> str:
        if any(word in reasons for word in ("certificate", "ssl", "handshake", "verification")):
            return (
                "The certificates don't fit: use those of this cluster (--cert-dir), or --disable-tls if the server "
                "runs without TLS"
            )
        if not self._tls and "socket closed" in reasons:  # all that a server with TLS lets a plain caller know
            return "If the server runs with TLS, leave out --disable-tls (tls=False in Python)"
        return "Is `milpa up` running, and are --endpoints right?"


class Deadline:
    """A time-out, or none, that is counted down over several calls."""

    def __init__(self, timeout_s: float | None) -> None:
        self._clock = _clock()
        self._ends = None if timeout_s is None else self._clock.monotonic() + checks.seconds("timeout_s", timeout_s)

    @property
    def passed(self) -> bool:
        return self._ends is not None and self._clock.monotonic() >= self._ends

    @property
    def left_s(self) -> float | None:
        """Seconds left, above 0, as a gRPC time-out; None: no limit."""
        return None if self._ends is None else max(self._ends - self._clock.monotonic(), 0.001)
