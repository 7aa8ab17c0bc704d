"""What the hypervisor remembers of its instances and launches, on disk.

    DIR/instances/<id>/instance.json   one record, replaced atomically
    DIR/launches/<hash of token>.json  the commit point of a launch: ids in launch-index order

A launch counts once its launch file is there: instances without one are left from a launch that was never answered
and are dropped when read. Nothing here starts or ends a process.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from milpa_ray.ports import InstanceState

_Record = TypeVar("_Record", "InstanceRecord", "LaunchRecord")


@dataclass(slots=True)
class InstanceRecord:
    """One instance. Times are seconds since the epoch.

    ``pid`` and ``start_time`` name the instance's PID 1 as the host sees it; the start time (clock ticks since the boot
    ``boot_id``) tells it from a later process with the same number. Invariant: they are on disk before PID 1 is let
    go. ``interruption_at``: when a spot instance is taken back, once it has been told so; 0 before.
    """

    id: str
    token: str
    launch_index: int
    instance_type: str
    zone: str
    spot: bool
    private_ip: str
    private_dns: str
    public_ip: str
    public_dns: str
    launched_at: float
    tags: dict[str, str]
    state: InstanceState = InstanceState.PENDING
    previous_state: InstanceState = InstanceState.PENDING
    changed_at: float = 0.0
    ready_at: float = 0.0
    hang: bool = False
    interruption_at: float = 0.0
    pid: int = 0
    start_time: int = 0
    boot_id: str = ""
    reason: str = ""

    def move_to(self, state: InstanceState, at: float, reason: str = "") -> None:
        """Notes the new state, the one before and when it changed."""
        self.previous_state, self.state, self.changed_at = self.state, state, at
        self.reason = reason or self.reason

    @property
    def alive(self) -> bool:
        """False once it is being terminated."""
        return self.state in (InstanceState.PENDING, InstanceState.RUNNING)


@dataclass(slots=True)
class LaunchRecord:
    """One launch. ``fingerprint`` is a hash of all that was asked for besides the token."""

    token: str
    fingerprint: str
    instance_ids: list[str] = field(default_factory=list)
    launched_at: float = 0.0


class Records:
    """The files below ``root``. One process at a time may write (the hypervisor holds a lock)."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.instances_dir = root / "instances"
        self.launches_dir = root / "launches"

    def make_directories(self) -> None:
        for directory in (self.root, self.instances_dir, self.launches_dir):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def instance_dir(self, instance_id: str) -> Path:
        return self.instances_dir / instance_id

    def add_instance(self, record: InstanceRecord, user_data: bytes) -> None:
        """Makes the instance's directory with its user data and its record."""
        directory = self.instance_dir(record.id)
        directory.mkdir(mode=0o700)
        _write(directory / "user-data", user_data)
        self.save_instance(record)

    def save_instance(self, record: InstanceRecord) -> None:
        _write(self.instance_dir(record.id) / "instance.json", json.dumps(asdict(record)).encode())

    def strip_instance(self, instance_id: str) -> None:
        """Removes everything of the instance but its record."""
        for entry in self.instance_dir(instance_id).iterdir():
            if entry.name == "instance.json":
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)

    def remove_instance(self, instance_id: str) -> None:
        shutil.rmtree(self.instance_dir(instance_id), ignore_errors=True)

    def save_launch(self, launch: LaunchRecord) -> None:
        _write(self._launch_path(launch.token), json.dumps(asdict(launch)).encode())

    def remove_launch(self, token: str) -> None:
        self._launch_path(token).unlink(missing_ok=True)

    def read(self) -> tuple[dict[str, InstanceRecord], dict[str, LaunchRecord]]:
        """All instances by id and all launches by token; drops what an interrupted launch left."""
        launches = {launch.token: launch for launch in _read_all(LaunchRecord, self.launches_dir.glob("*.json"))}
        instances: dict[str, InstanceRecord] = {}
        if not self.instances_dir.is_dir():
            return instances, launches
        for directory in self.instances_dir.iterdir():
            found = list(_read_all(InstanceRecord, [directory / "instance.json"]))
            if found and found[0].token in launches:
                record = found[0]
                record.state, record.previous_state = InstanceState(record.state), InstanceState(record.previous_state)
                if record.boot_id != boot_id():
                    record.pid = 0  # the machine was restarted: whoever has the number now is a stranger
                instances[record.id] = record
            elif not found or not found[0].pid:
                shutil.rmtree(directory, ignore_errors=True)
        return instances, launches

    def _launch_path(self, token: str) -> Path:
        return self.launches_dir / f"{hashlib.sha256(token.encode()).hexdigest()[:40]}.json"


@cache
def boot_id() -> str:
    """Names the machine's present boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _read_all(kind: type[_Record], paths: Iterator[Path] | list[Path]) -> Iterator[_Record]:
    """Readable records; keys of another version are passed over."""
    known = {entry.name for entry in fields(kind)}
    for path in paths:
        try:
            data: dict[str, Any] = json.loads(path.read_bytes())
        except (OSError, ValueError):
            continue
        yield kind(**{key: value for key, value in data.items() if key in known})


def _write(path: Path, data: bytes) -> None:
    """Replaces the file atomically, mode 0600. No fsync: instances don't outlive the machine anyway."""
    temporary = path.with_name(f".{path.name}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    temporary.replace(path)
