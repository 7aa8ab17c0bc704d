"""Which server is asked next, and what is said when none answers."""

from typing import Any

import grpc
import pytest

from milpa_ray.client.attempts import Attempts, translate
from milpa_ray.client.connection import with_port
from milpa_ray.errors import ApiUnavailable, Invalid, NotFound, PermissionDenied, WatchExpired


class Failure(grpc.RpcError):
    def __init__(self, code: str, details: str = "why") -> None:
        super().__init__()
        self._code, self._details = code, details

    def code(self) -> Any:
        return grpc.StatusCode[self._code]

    def details(self) -> str:
        return self._details


def test_each_endpoint_is_asked_before_any_is_asked_again() -> None:
    attempts = Attempts(["a", "b", "c"], "b", read=False, retry_s=60)
    asked = []
    for _ in range(6):
        asked.append(attempts.endpoint)
        delay = attempts.failed(Failure("UNAVAILABLE"))
        assert (delay > 0) == (len(asked) % 3 == 0)
    assert asked == ["b", "c", "a", "b", "c", "a"]


def test_reads_start_anywhere() -> None:
    first = {Attempts(["a", "b", "c"], "a", read=True, retry_s=0).endpoint for _ in range(100)}
    assert first == {"a", "b", "c"}


def test_when_nobody_answers_all_are_named_with_the_remedy() -> None:
    attempts = Attempts(["a:1", "b:2"], "a:1", read=False, retry_s=0)
    assert attempts.failed(Failure("UNAVAILABLE", "connection refused")) == 0
    with pytest.raises(ApiUnavailable) as caught:
        attempts.failed(Failure("DEADLINE_EXCEEDED", "too slow"))
    assert str(caught.value) == (
        "no API server answers (a:1: connection refused; b:2: too slow). "
        "Is `milpa up` running, and are --endpoints right?"
    )


def test_certificates_that_do_not_fit_have_another_remedy() -> None:
    with pytest.raises(ApiUnavailable, match="--disable-tls"):
        Attempts(["a"], "a", read=True, retry_s=0).failed(Failure("UNAVAILABLE", "Ssl handshake failed"))


@pytest.mark.parametrize(("tls", "remedy"), [(False, "leave out --disable-tls"), (True, "milpa up")])
def test_a_plain_caller_that_is_hung_up_on_hears_of_tls(tls: bool, remedy: str) -> None:
    with pytest.raises(ApiUnavailable, match=remedy):
        Attempts(["a"], "a", read=True, retry_s=0, tls=tls).failed(Failure("UNAVAILABLE", "Socket closed"))


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("NOT_FOUND", NotFound),
        ("INVALID_ARGUMENT", Invalid),
        ("PERMISSION_DENIED", PermissionDenied),
        ("OUT_OF_RANGE", WatchExpired),
        ("UNAVAILABLE", ApiUnavailable),
    ],
)
def test_answers_are_translated_and_not_asked_again(code: str, kind: type[Exception]) -> None:
    assert type(translate(Failure(code))) is kind
    if kind is not ApiUnavailable:
        with pytest.raises(kind, match="why"):
            Attempts(["a", "b"], "a", read=True, retry_s=60).failed(Failure(code))


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("h", "h:54555"),
        ("h:1", "h:1"),
        ("10.0.0.1", "10.0.0.1:54555"),
        ("::1", "[::1]:54555"),
        ("[::1]", "[::1]:54555"),
        ("[::1]:7", "[::1]:7"),
        ("fe80::1%eth0", "[fe80::1%eth0]:54555"),
    ],
)
def test_endpoints_without_a_port(given: str, wanted: str) -> None:
    assert with_port(given) == wanted


@pytest.mark.parametrize(
    "given", ["http://h:1", "h:port", "h:99999", "h:0", "h:", ":1", "", "a b:1", "[::1", "[::1]x:7", "dns:///h", "::x"]
)
def test_what_is_no_endpoint_is_said_before_anything_is_asked(given: str) -> None:
    with pytest.raises(Invalid, match="is no endpoint; write HOST or HOST:PORT"):
        with_port(given)
