"""Where a Milpa installation keeps its files. Names only: makes and reads nothing."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

DEFAULT_ROOT = Path("/opt/milpa")


@dataclass(frozen=True, slots=True)
class Home:
    """The tree below ``root``, as the manual lays it out."""

    root: Path = DEFAULT_ROOT

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> "Home":
        """Root from ``MILPA_HOME``, or /opt/milpa. Relative paths are taken from the working directory."""
        text = (os.environ if env is None else env).get("MILPA_HOME", "")
        return cls(Path(text).expanduser().absolute()) if text else cls()

    @property
    def etc(self) -> Path:
        """Configuration that the administrator edits."""
        return self.root / "etc"

    @property
    def server_yml(self) -> Path:
        return self.etc / "server.yml"

    @property
    def data(self) -> Path:
        """The embedded etcd's data, unless ``etcd.internal.dataDir`` says otherwise."""
        return self.root / "data"

    @property
    def certs(self) -> Path:
        """Certificates of the API server and of its clients."""
        return self.root / "certs"

    @property
    def run(self) -> Path:
        """Sockets and process ids; nothing in it outlives the processes."""
        return self.root / "run"

    @property
    def log(self) -> Path:
        return self.root / "log"

    @property
    def catalog(self) -> Path:
        """Prices that ``milpa catalog refresh`` has fetched, one file per region."""
        return self.root / "catalog"

    @property
    def local(self) -> Path:
        """State of the local cloud's hypervisor and its instances."""
        return self.root / "local"
