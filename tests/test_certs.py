"""The certificate folder and the CA in the store."""

import asyncio
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from milpa_ray.certs import ensure_ca, ensure_certs, read_pair
from milpa_ray.clock import SystemClock
from milpa_ray.errors import Invalid
from milpa_ray.keys import Keys
from milpa_ray.pki import CERT_VALID, CertificateAuthority
from milpa_ray.store.memory import MemoryStore
from milpa_ray.store.port import Put, Txn

KEYS = Keys("c")
CLOCK = SystemClock()


def names_of(cert_dir: Path, name: str) -> set[str]:
    cert = x509.load_pem_x509_certificate(read_pair(cert_dir, name).cert)
    found = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {*found.get_values_for_type(x509.DNSName), *map(str, found.get_values_for_type(x509.IPAddress))}


def contents(cert_dir: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in cert_dir.iterdir()}


async def test_all_hosts_get_the_same_ca_however_many_start_at_once(tmp_path: Path) -> None:
    store = MemoryStore()
    found = await asyncio.gather(*(ensure_ca(store, KEYS, CLOCK, tmp_path / str(n)) for n in range(5)))
    assert len({ca.pair.cert for ca in found}) == 1


async def test_a_folder_with_a_ca_gives_it_to_a_new_cluster(tmp_path: Path) -> None:
    ca = CertificateAuthority.create("c")
    ensure_certs(tmp_path, ca, [])
    store = MemoryStore()
    assert (await ensure_ca(store, KEYS, CLOCK, tmp_path)).pair == ca.pair
    assert (await ensure_ca(store, KEYS, CLOCK, tmp_path / "other")).pair == ca.pair


async def test_a_folder_of_another_cluster_is_refused_with_the_remedy(tmp_path: Path) -> None:
    store = MemoryStore()
    await ensure_ca(store, KEYS, CLOCK, tmp_path / "new")
    ensure_certs(tmp_path, CertificateAuthority.create("other"), [])
    with pytest.raises(Invalid, match="move the folder away and start again"):
        await ensure_ca(store, KEYS, CLOCK, tmp_path)


async def test_damaged_files_are_named(tmp_path: Path) -> None:
    store = MemoryStore()
    (tmp_path / "ca.crt").write_text("none")
    with pytest.raises(Invalid, match=r"ca\.key"):
        await ensure_ca(store, KEYS, CLOCK, tmp_path)
    (tmp_path / "ca.key").write_text("none")
    with pytest.raises(Invalid, match="are no CA"):
        await ensure_ca(store, KEYS, CLOCK, tmp_path)
    await store.commit(Txn(ops=(Put(KEYS.ca, b"[]"),)))
    with pytest.raises(Invalid, match="is damaged"):
        await ensure_ca(store, KEYS, CLOCK, tmp_path / "empty")


def test_what_is_good_stays_and_what_is_not_is_made_anew(tmp_path: Path) -> None:
    ca = CertificateAuthority.create("c")
    ensure_certs(tmp_path, ca, ["host1", "10.0.0.7"])
    assert names_of(tmp_path, "server") == {"server.milpa", "localhost", "127.0.0.1", "::1", "host1", "10.0.0.7"}
    assert names_of(tmp_path, "client") == {"client.milpa"}
    first = contents(tmp_path)
    ensure_certs(tmp_path, ca, ["host1"])
    assert contents(tmp_path) == first

    ensure_certs(tmp_path, ca, ["host2"])
    second = contents(tmp_path)
    assert second["server.crt"] != first["server.crt"]
    assert second["client.crt"] == first["client.crt"]

    (tmp_path / "client.key").write_bytes(first["server.key"])  # does not fit its certificate
    ensure_certs(tmp_path, ca, ["host2"])
    third = contents(tmp_path)
    assert third["client.crt"] != second["client.crt"]

    ensure_certs(tmp_path, ca, ["host2"], now=datetime.now(UTC) + CERT_VALID - timedelta(days=20))
    assert contents(tmp_path)["server.crt"] != third["server.crt"]

    another = CertificateAuthority.create("c")
    ensure_certs(tmp_path, another, ["host2"])
    x509.load_pem_x509_certificate(read_pair(tmp_path, "client").cert).verify_directly_issued_by(
        x509.load_pem_x509_certificate(another.pair.cert)
    )


def test_a_stricter_mode_that_the_admin_set_stays(tmp_path: Path) -> None:
    ca = CertificateAuthority.create("c")
    ensure_certs(tmp_path, ca, [])
    (tmp_path / "client.key").chmod(0o600)
    ensure_certs(tmp_path, CertificateAuthority.create("c"), [])
    assert (tmp_path / "client.key").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "client.crt").stat().st_mode & 0o777 == 0o644


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Invalid, match=r"certificate folder .*file/certs"):
        ensure_certs(tmp_path / "file" / "certs", CertificateAuthority.create("c"), [])
    assert os.listdir(tmp_path) == ["file"]
