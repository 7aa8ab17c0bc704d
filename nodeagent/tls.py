"""The agent's certificates: first the launch batch's, then one of its own with a key that never leaves the node.

New handshakes use the newest certificate at once. Who may call is checked in ``service``.
"""

import json
import ssl
import sys
from pathlib import Path

import grpc

from milpa_ray.userdata import UserData
from nodeagent.commands import run
from nodeagent.state_dir import StateDir, write_atomic


class NodeCertificates:
    """``enabled`` is False when the user data brings no certificates: then everything is served without TLS."""

    def __init__(self, user_data: UserData, dirs: StateDir) -> None:
        self.enabled = bool(user_data.ca and user_data.cert and user_data.key)
        self._ca = user_data.ca.encode()
        self._bootstrap = (user_data.key.encode(), user_data.cert.encode())
        # Key and certificate in one file, so that no crash can part them.
        self._pair = dirs.tls / "node.pem"
        self._pending = dirs.tls / "pending.key"
        self._served = self._bootstrap

    @property
    def enrolled(self) -> bool:
        return self._pair.exists()

    def server_credentials(self) -> grpc.ServerCredentials:
        """Credentials that demand a client certificate of our CA and follow ``install``."""
        self._served = self._newest()
        return grpc.dynamic_ssl_server_credentials(
            self._configuration(self._served),
            self._newer,  # type: ignore[arg-type]
            require_client_authentication=True,
        )

    async def make_request(self, node_name: str) -> bytes:
        """A signing request (PEM) for a key made just now.

        Raises:
            CommandFailed: the key could not be made.
        """
        answer = json.loads(await run(sys.executable, "-m", "nodeagent.signing", node_name))
        write_atomic(self._pending, answer["key"].encode())
        return str(answer["csr"]).encode()

    def install(self, certificate: bytes) -> None:
        """Serves with ``certificate`` from the next handshake on.

        Raises:
            ValueError: it is not for the key of the last request.
        """
        try:
            key = self._pending.read_bytes()
        except FileNotFoundError:
            raise ValueError("no signing request was made before") from None
        fresh = self._pair.with_name("new.pem")
        write_atomic(fresh, key + certificate)
        _check_pair(fresh)
        fresh.rename(self._pair)
        self._pending.unlink()

    def _newest(self) -> tuple[bytes, bytes]:
        if not self.enrolled:
            return self._bootstrap
        both = self._pair.read_bytes()
        cut = both.index(b"-----BEGIN CERTIFICATE-----")
        return both[:cut], both[cut:]

    def _configuration(self, pair: tuple[bytes, bytes]) -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration([pair], root_certificates=self._ca)

    def _newer(self) -> grpc.ServerCertificateConfiguration | None:
        """Asked by gRPC at each handshake; None keeps what is served."""
        pair = self._newest()
        if pair == self._served:
            return None
        self._served = pair
        return self._configuration(pair)


def _check_pair(path: Path) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(path)
    except ssl.SSLError as error:
        raise ValueError(f"the certificate is not for this node's key: {error.reason}") from None
