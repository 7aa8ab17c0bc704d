"""The certificate folder of a controller host, and the cluster's CA in the store.

The CA is made once per cluster and kept in the store, so that all hosts have the same one. Each host writes it, a
certificate for its API server and one for ``milpactl`` into its folder, with the manual's names and modes.
"""

import asyncio
import contextlib
import fcntl
import ipaddress
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from milpa_ray.clock import Clock, SystemClock
from milpa_ray.errors import Invalid, MilpaError
from milpa_ray.keys import Keys
from milpa_ray.pki import CertificateAuthority, KeyPair
from milpa_ray.ports import API_SERVER_IDENTITY, CLIENT_IDENTITY
from milpa_ray.store.port import Compare, Put, Store, Txn

MODES = {
    "ca.crt": 0o644,
    "ca.key": 0o600,
    "client.crt": 0o644,
    "client.key": 0o644,  # any user of the machine may use milpactl; chmod 0600 takes that away, and we keep it so
    "server.crt": 0o600,
    "server.key": 0o600,
}
RENEW_BEFORE = timedelta(days=30)
"""Certificates are made anew this long before they end."""
LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")


async def ensure_ca(store: Store, keys: Keys, clock: Clock, cert_dir: Path) -> CertificateAuthority:
    """The cluster's CA: from the store; else the folder's, or a new one, which becomes the cluster's.

    Raises:
        Invalid: the folder belongs to another CA than the cluster, or can't be read.
        StoreUnavailable: the store does not answer.
    """
    folder = await asyncio.to_thread(_read_ca, cert_dir)
    entry = await store.get(keys.ca)
    if entry is None:
        made = folder or CertificateAuthority.create(keys.cluster, clock.now()).pair
        put = Put(keys.ca, json.dumps({"cert": made.cert.decode(), "key": made.key.decode()}).encode())
        result = await store.commit(Txn((Compare(keys.ca, 0),), (put,)))
        if result.ok:
            return CertificateAuthority(made)
        entry = result.current[0]
        assert entry is not None  # it failed because the key exists
    stored = _parse_ca(entry.value, keys.ca)
    if folder is not None and folder.cert.strip() != stored.pair.cert.strip():
        raise Invalid(
            f"the certificates in {cert_dir} were made by another CA than that of cluster {keys.cluster!r}: move the "
            "folder away and start again (it is then made anew; clients need the new ca.crt, client.crt and "
            "client.key), or name the right cluster or etcd in server.yml"
        )
    return stored


def ensure_certs(
    cert_dir: Path, ca: CertificateAuthority, host_names: Sequence[str], *, now: datetime | None = None
) -> None:
    """Writes what is missing in the folder, belongs to another CA, ends soon, or lacks one of ``host_names``.

    Safe to call from several processes at a time. Clients verify the name ``server.milpa``, so a host name that is
    missing in an old certificate locks nobody out.

    Raises:
        Invalid: the folder can't be written.
    """
    now = now or SystemClock().now()
    names = list(dict.fromkeys((API_SERVER_IDENTITY, *LOCAL_NAMES, *host_names)))
    with _naming(cert_dir), _locked(cert_dir):
        _write(cert_dir, "ca.crt", ca.pair.cert)
        _write(cert_dir, "ca.key", ca.pair.key)
        if not _good(cert_dir, "server", ca, names, now):
            _write_pair(cert_dir, "server", ca.issue(names, server=True, client=False, now=now))
        if not _good(cert_dir, "client", ca, [CLIENT_IDENTITY], now):
            _write_pair(cert_dir, "client", ca.issue([CLIENT_IDENTITY], server=False, client=True, now=now))


def read_pair(cert_dir: Path, name: str) -> KeyPair:
    """The certificate and key called ``name`` (``server``, ``client``). Raises ``Invalid``."""
    with _naming(cert_dir):
        return KeyPair((cert_dir / f"{name}.crt").read_bytes(), (cert_dir / f"{name}.key").read_bytes())


def _parse_ca(value: bytes, key: str) -> CertificateAuthority:
    try:
        body = json.loads(value)
        return CertificateAuthority(KeyPair(body["cert"].encode(), body["key"].encode()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Invalid(f"the CA in the store (key {key}) is damaged: {error}; restore it from a backup") from None


def _read_ca(cert_dir: Path) -> KeyPair | None:
    """The folder's CA, or None when there is none. Without its key it is good for comparing only."""
    with _naming(cert_dir):
        if not (cert_dir / "ca.crt").exists():
            return None
        pair = KeyPair((cert_dir / "ca.crt").read_bytes(), (cert_dir / "ca.key").read_bytes())
    try:
        return CertificateAuthority(pair).pair
    except ValueError as error:
        raise Invalid(f"ca.crt and ca.key in {cert_dir} are no CA: {error}; move the folder away") from None


def _good(cert_dir: Path, name: str, ca: CertificateAuthority, names: Sequence[str], now: datetime) -> bool:
    """Whether the pair in the folder can stay."""
    try:
        cert = x509.load_pem_x509_certificate((cert_dir / f"{name}.crt").read_bytes())
        key = (cert_dir / f"{name}.key").read_bytes()
        cert.verify_directly_issued_by(x509.load_pem_x509_certificate(ca.pair.cert))
        found = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return False
    have = {*found.get_values_for_type(x509.DNSName), *map(str, found.get_values_for_type(x509.IPAddress))}
    return set(map(_normal, names)) <= have and cert.not_valid_after_utc - now > RENEW_BEFORE and _fits(cert, key)


def _fits(cert: x509.Certificate, key: bytes) -> bool:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        return load_pem_private_key(key, password=None).public_key() == cert.public_key()
    except ValueError:
        return False


def _normal(name: str) -> str:
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        return name


def _write_pair(cert_dir: Path, name: str, pair: KeyPair) -> None:
    _write(cert_dir, f"{name}.key", pair.key)
    _write(cert_dir, f"{name}.crt", pair.cert)


def _write(cert_dir: Path, name: str, content: bytes) -> None:
    """Writes a file whole or not at all, never readable by more than its mode says. A stricter mode stays."""
    path = cert_dir / name
    mode = MODES[name]
    with contextlib.suppress(FileNotFoundError):
        if path.read_bytes() == content:
            return
        mode &= path.stat().st_mode
    handle, temporary = tempfile.mkstemp(dir=cert_dir, prefix=f".{name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            os.fchmod(file.fileno(), mode)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def _locked(cert_dir: Path) -> Iterator[None]:
    """Only one process at a time writes the folder, so that certificate and key always fit."""
    cert_dir.mkdir(parents=True, exist_ok=True)
    with (cert_dir / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _naming(cert_dir: Path) -> Iterator[None]:
    """Turns file errors into ours, with the remedy."""
    try:
        yield
    except MilpaError:
        raise
    except OSError as error:
        raise Invalid(
            f"certificate folder {cert_dir}: {error.strerror or error} ({error.filename}); make it readable and "
            "writable for the user that runs milpa, or name another one"
        ) from None
