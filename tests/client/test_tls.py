"""Where the certificates are looked for, and what is said when they are not there."""

from pathlib import Path

import pytest

from milpa_ray.certs import ensure_certs
from milpa_ray.client import Client, tls
from milpa_ray.errors import Invalid
from milpa_ray.pki import CertificateAuthority


@pytest.fixture
def certs(tmp_path: Path) -> Path:
    folder = tmp_path / "home" / "certs"
    ensure_certs(folder, CertificateAuthority.create("c"), [])
    return folder


def test_the_folder_of_milpa_then_the_current_one(certs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILPA_HOME", str(certs.parent))
    assert tls.load(None)[0] == (certs / "ca.crt").read_bytes()
    monkeypatch.setenv("MILPA_HOME", str(tmp_path / "none"))
    monkeypatch.chdir(certs)
    assert tls.load(None)[2] == (certs / "client.key").read_bytes()


def test_both_failures_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILPA_HOME", str(tmp_path / "none"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Invalid) as caught:
        Client().version()
    text = str(caught.value)
    assert text.startswith(f"Error loading TLS configuration from {tmp_path}/none/certs: open {tmp_path}/none/certs/ca")
    assert f"Fell back to current directory {tmp_path} for certs" in text
    assert f"open {tmp_path}/ca.crt: no such file or directory" in text


def test_a_folder_that_is_named_is_the_only_one(certs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(certs)
    with pytest.raises(Invalid, match=r"Copy ca\.crt, client\.crt and client\.key"):
        tls.load(tmp_path)
    (certs / "client.crt").write_text("no certificate")
    with pytest.raises(Invalid, match=r"client\.crt is not a PEM file"):
        tls.load(certs)
