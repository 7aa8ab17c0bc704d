"""Certificates: our own CA and what it signs. Keys are P-256; TLS itself is gRPC's.

The CA is made once per cluster and kept in the store, so that every controller host has the same one; each host writes
it and the certificates of ``milpactl`` and the server to its certificate folder as the manual describes.
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CA_VALID = timedelta(days=3650)
CERT_VALID = timedelta(days=825)
BACKDATE = timedelta(hours=1)
"""Certificates are valid from an hour before their making, for instances whose clock is behind."""


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate and its key, both PEM."""

    cert: bytes
    key: bytes


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _names(names: Sequence[str]) -> x509.SubjectAlternativeName:
    found: list[x509.GeneralName] = []
    for name in names:
        try:
            found.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            found.append(x509.DNSName(name))
    return x509.SubjectAlternativeName(found)


def make_csr(common_name: str) -> tuple[bytes, bytes]:
    """A new key and a signing request for it: (csr PEM, key PEM)."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    csr = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return csr.public_bytes(serialization.Encoding.PEM), _key_pem(key)


class CertificateAuthority:
    """Signs certificates. Parses its key once; one object serves a whole process."""

    def __init__(self, pair: KeyPair) -> None:
        self.pair = pair
        self._cert = x509.load_pem_x509_certificate(pair.cert)
        key = serialization.load_pem_private_key(pair.key, password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ValueError("the CA key must be an elliptic-curve key")
        self._key = key

    @classmethod
    def create(cls, cluster: str, now: datetime | None = None) -> "CertificateAuthority":
        """A new self-signed CA for ``cluster``. ``now`` defaults to the moment."""
        now = now or datetime.now(UTC)
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"milpa CA {cluster}"[:64])])
        cert = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - BACKDATE)
            .not_valid_after(now + CA_VALID)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(ca=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        return cls(KeyPair(cert.public_bytes(serialization.Encoding.PEM), _key_pem(key)))

    def issue(self, names: Sequence[str], *, server: bool, client: bool, now: datetime | None = None) -> KeyPair:
        """A new key and certificate with ``names`` (host names or addresses; the first is the common name too)."""
        key = ec.generate_private_key(ec.SECP256R1())
        return KeyPair(self._sign(key.public_key(), names, (server, client), now), _key_pem(key))

    def sign_csr(self, csr: bytes, names: Sequence[str], *, server: bool, client: bool) -> bytes:
        """Certificate PEM for the key in ``csr``. The names are ours to choose, those in the request are ignored.

        Raises:
            ValueError: the request is malformed or not signed by its own key.
        """
        request = x509.load_pem_x509_csr(csr)
        if not request.is_signature_valid:
            raise ValueError("the signing request is not signed by its own key")
        key = request.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise ValueError("the signing request's key must be an elliptic-curve key")
        return self._sign(key, names, (server, client), None)

    def _sign(
        self,
        key: ec.EllipticCurvePublicKey,
        names: Sequence[str],
        usage: tuple[bool, bool],
        now: datetime | None,
    ) -> bytes:
        now = now or datetime.now(UTC)
        server, client = usage
        purposes = [ExtendedKeyUsageOID.SERVER_AUTH] * server + [ExtendedKeyUsageOID.CLIENT_AUTH] * client
        cert = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])]))
            .issuer_name(self._cert.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - BACKDATE)
            .not_valid_after(min(now + CERT_VALID, self._cert.not_valid_after_utc))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(ca=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
            .add_extension(_names(names), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return cert.public_bytes(serialization.Encoding.PEM)


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )
