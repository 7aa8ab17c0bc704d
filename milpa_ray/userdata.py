"""What an instance is told at boot, on every cloud: gzip-compressed JSON, as small as EC2's 16 KB limit asks.

``cert`` and ``key`` are the launch batch's bootstrap pair (TLS name ``ports.bootstrap_identity(batch)``): the agent
serves with it until it is enrolled. ``ca`` is the CA that signs controllers' certificates.
"""

import gzip
import json
from dataclasses import asdict, dataclass

MAX_USER_DATA = 16_384


@dataclass(frozen=True, slots=True)
class UserData:
    """PEM text in ``ca``, ``cert`` and ``key`` (all empty: the agent serves without TLS). ``cloud_init`` is the
    user's cloud-init file."""

    cluster: str
    batch: str
    ca: str = ""
    cert: str = ""
    key: str = ""
    cloud_init: str = ""

    def pack(self) -> bytes:
        """Bytes for the instance.

        Raises:
            ValueError: over 16 KB.
        """
        data = gzip.compress(json.dumps(asdict(self)).encode(), 9, mtime=0)
        if len(data) > MAX_USER_DATA:
            raise ValueError(
                f"user data is {len(data)} bytes, the limit is {MAX_USER_DATA}: shorten the cloud-init file"
            )
        return data

    @classmethod
    def unpack(cls, data: bytes) -> "UserData":
        """Raises ValueError when ``data`` is not ours."""
        try:
            return cls(**json.loads(gzip.decompress(data)))
        except (OSError, EOFError, TypeError, ValueError) as error:
            raise ValueError(f"not Milpa's user data: {error}") from error
