"""Finds the client's certificates: in the folder given, else in Milpa's own, else in the current one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from milpa_ray.client.discovery import home_cert_dir
from milpa_ray.errors import Invalid

if TYPE_CHECKING:
    import grpc

FILES = ("ca.crt", "client.crt", "client.key")


def _read(folder: Path) -> tuple[bytes, bytes, bytes]:
    ca, cert, key = (_read_file(folder / name) for name in FILES)
    return ca, cert, key


def _read_file(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise Invalid(f"open {path}: {(error.strerror or str(error)).lower()}") from None
    if b"-----BEGIN" not in content:
        raise Invalid(f"{path} is not a PEM file")
    return content


def load(cert_dir: Path | None) -> tuple[bytes, bytes, bytes]:
    """PEM texts of the CA's certificate, the client's certificate and its key.

    Raises:
        Invalid: they can't be read; names every folder that was tried and why it failed.
    """
    if cert_dir is not None:
        try:
            return _read(cert_dir)
        except Invalid as error:
            raise Invalid(
                f"Error loading TLS configuration from {cert_dir}: {error}. Copy ca.crt, client.crt and client.key "
                "there from the server's certificate folder"
            ) from None
    first = home_cert_dir()
    try:
        return _read(first)
    except Invalid as error:
        try:
            return _read(Path.cwd())
        except Invalid as fallback:
            raise Invalid(
                f"Error loading TLS configuration from {first}: {error}. Fell back to current directory {Path.cwd()} "
                f"for certs and encountered the following error: {fallback}. Name the folder that has them with "
                "--cert-dir (cert_dir in Python)"
            ) from None


def credentials(cert_dir: Path | None) -> grpc.ChannelCredentials:
    """gRPC credentials for a channel to an API server. Raises ``Invalid`` as ``load`` does."""
    import grpc

    ca, cert, key = load(cert_dir)
    return grpc.ssl_channel_credentials(root_certificates=ca, private_key=key, certificate_chain=cert)
