"""EC2's instance metadata service, version 2: what an instance may ask about itself.

Speaks only the token protocol, since Milpa's instances refuse the older one, and never through a proxy. Blocking; one
caller at a time. What the answers mean is for the callers.
"""

import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping

ENDPOINT_VARIABLE = "AWS_EC2_METADATA_SERVICE_ENDPOINT"
"""The AWS SDKs' variable for another endpoint."""
DEFAULT_ENDPOINT = "http://169.254.169.254"
TIMEOUT_S = 2.0
TOKEN_TTL_S = 21_600
MAX_ANSWER = 64 * 1024
"""Bytes that are read of an answer: user data is at most 16 KB, everything else is small."""
_RENEW_S = 300


class MetadataUnavailable(Exception):
    """The service does not answer, or not as it should. ``str()`` says what was asked."""


class InstanceMetadata:
    """A client that keeps its token until shortly before it ends."""

    def __init__(self, endpoint: str = "", timeout_s: float = TIMEOUT_S) -> None:
        """``endpoint``: empty means the one of the environment, else the link-local address of every EC2 instance."""
        chosen = endpoint or os.environ.get(ENDPOINT_VARIABLE, "") or DEFAULT_ENDPOINT
        self.endpoint = chosen.rstrip("/")
        self._timeout_s = timeout_s
        self._token = ""
        self._token_until = 0.0
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def read(self, path: str) -> bytes | None:
        """The answer to ``GET /latest/<path>``; None when there is nothing of that name.

        Raises:
            MetadataUnavailable: no answer within the time-out, or a refusal.
        """
        for attempt in (1, 2):
            try:
                return self._send("GET", path, {"X-aws-ec2-metadata-token": self._current_token()})
            except urllib.error.HTTPError as error:
                if error.code == 404:
                    return None
                if error.code == 401 and attempt == 1:
                    self._token = ""  # of an earlier life of this machine, such as before it was stopped and started
                    continue
                raise self._unavailable(path, f"answer {error.code}") from None
        raise AssertionError("unreachable")

    def _current_token(self) -> str:
        now = time.monotonic()
        if not self._token or now >= self._token_until:
            ttl = {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_TTL_S)}
            try:
                self._token = self._send("PUT", "api/token", ttl).decode("ascii", "replace").strip()
            except urllib.error.HTTPError as error:
                raise self._unavailable("api/token", f"answer {error.code}") from None
            self._token_until = now + TOKEN_TTL_S - _RENEW_S
        return self._token

    def _send(self, method: str, path: str, headers: Mapping[str, str]) -> bytes:
        try:
            request = urllib.request.Request(f"{self.endpoint}/latest/{path}", headers=dict(headers), method=method)
            with self._opener.open(request, timeout=self._timeout_s) as answer:
                return bytes(answer.read(MAX_ANSWER))
        except urllib.error.HTTPError:
            raise
        except (OSError, ValueError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise self._unavailable(path, str(reason)) from None

    def _unavailable(self, path: str, reason: str) -> MetadataUnavailable:
        return MetadataUnavailable(f"{self.endpoint}/latest/{path}: {reason}")
