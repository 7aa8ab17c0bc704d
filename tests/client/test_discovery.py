"""The server that is found when none is named: the same by the Python client and by milpactl."""

from pathlib import Path

import pytest

from milpa_ray.client import AsyncClient, Client, discovery
from milpa_ray.errors import ApiUnavailable, Invalid
from tests.cli.running import milpactl_here

NAMES = ("MILPA_ENDPOINTS", "MILPA_CERT_DIR", "MILPA_HOME")


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


def test_defaults() -> None:
    assert discovery.default_endpoints() == ("localhost:54555",)
    assert discovery.named_cert_dir() is None
    assert discovery.home_cert_dir() == Path("/opt/milpa/certs")


def test_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILPA_ENDPOINTS", " a:1, ,b ")
    monkeypatch.setenv("MILPA_CERT_DIR", "/c")
    monkeypatch.setenv("MILPA_HOME", "/h")
    assert discovery.default_endpoints() == ("a:1", "b")
    assert (discovery.named_cert_dir(), discovery.home_cert_dir()) == (Path("/c"), Path("/h/certs"))


def test_a_client_without_arguments_goes_where_milpactl_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILPA_ENDPOINTS", "127.0.0.1:9,127.0.0.1:19")
    with Client(tls=False, retry_s=0) as client, pytest.raises(ApiUnavailable) as caught:
        client.version()
    ran = milpactl_here("version", "--disable-tls", env={"MILPA_ENDPOINTS": "127.0.0.1:9,127.0.0.1:19"})
    for text in (str(caught.value), ran.err):
        assert "127.0.0.1:9: " in text
        assert "127.0.0.1:19: " in text


def test_the_named_folder_of_certificates_is_the_only_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILPA_CERT_DIR", str(tmp_path / "named"))
    with Client() as client, pytest.raises(Invalid, match=f"TLS configuration from {tmp_path}/named: open"):
        client.version()
    with Client(cert_dir=str(tmp_path / "given")) as client, pytest.raises(Invalid, match=f"from {tmp_path}/given"):
        client.version()


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize("endpoints", [[], "", [" "], [3], "http://h:1", ["host:port"]])
def test_what_names_no_server_is_refused(kind: type[Client], endpoints: object) -> None:
    with pytest.raises(Invalid, match="endpoint"):
        kind(endpoints)  # type: ignore[arg-type]


def test_arguments_win_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILPA_ENDPOINTS", "127.0.0.1:9")
    for given in ("127.0.0.1:19", ["127.0.0.1:19"]):
        with Client(given, tls=False, retry_s=0) as client, pytest.raises(ApiUnavailable) as caught:
            client.version()
        assert "127.0.0.1:9:" not in str(caught.value)
