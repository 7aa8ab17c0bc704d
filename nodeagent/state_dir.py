"""Where the agent keeps what must survive its death: one directory, laid out here, written atomically.

Knows paths and durable writes; it does not know what the files mean. One agent at a time holds the directory.
"""

import fcntl
import json
import os
from pathlib import Path
from typing import Any


def write_atomic(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Replaces ``path`` so that after a crash it holds either the old or the new bytes, and the new ones once this
    has returned."""
    temporary = path.with_name(f".{path.name}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        os.fchmod(descriptor, mode)
        with os.fdopen(descriptor, "wb", closefd=False) as file:
            file.write(data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(temporary, path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in ``path``; None when the file is not there."""
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    if not isinstance(found, dict):
        raise ValueError(f"{path}: expected a JSON object")
    return found


class StateDir:
    """Paths below an agent's state directory (mode 0700: it holds registry credentials and the node's key)."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        if any(sign in str(self.root) for sign in ",:\\"):
            raise ValueError(f"state directory {self.root}: the path must hold no comma, colon or backslash")
        self.agent_record = self.root / "agent.json"
        self.dispatch = self.root / "dispatch.json"
        self.tls = self.root / "tls"
        self.units = self.root / "units"
        self.volumes = self.root / "volumes"
        self.packages = self.root / "packages"
        self.etc = self.root / "etc"
        self.runc = self.root / "runc"
        self.exits = self.root / "exits"
        self.logs = self.root / "logs"
        self.agent_log = self.root / "agent.log"
        self.images = self.root / "images"
        self.scratch = self.root / "tmp"
        self._lock = -1

    def create(self) -> None:
        """Makes the directories that are missing."""
        self.root.mkdir(parents=True, exist_ok=True)
        os.chmod(self.root, 0o700)
        for path in (self.tls, self.units, self.volumes, self.packages, self.etc, self.runc, self.exits):
            path.mkdir(exist_ok=True)
        for path in (self.logs, self.scratch):
            path.mkdir(exist_ok=True)

    def lock(self) -> None:
        """Takes the directory for this process until it dies.

        Raises:
            BlockingIOError: another agent holds it.
        """
        self._lock = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def log_file(self, unit: str) -> Path:
        """The log that conmon writes for ``unit``; its rotated predecessor ends in ``.1``."""
        return self.logs / f"{unit}.log"
