"""Control groups of instances: the one thing that outlives an instance's namespaces, and its removal.

The agent makes everything that is not namespaced below its state directory, which goes with the instance's, or below
the control group that it is told, ``/milpa-<bridge>/<instance id>``. Both v1 (one tree per controller) and v2.
"""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

REMOVE_TIMEOUT_S = 5.0
_ROOT = Path("/sys/fs/cgroup")
_POLL_S = 0.02


def control_group(bridge: str, instance_id: str = "") -> str:
    """Path, within a hierarchy, of an instance's control group, or of the one that holds all of a cloud's."""
    return f"/milpa-{bridge}/{instance_id}".rstrip("/")


def control_groups(group: str) -> list[str]:
    """Directories of that control group that are there, one per hierarchy at most."""
    return [str(directory) for directory in _directories(group)]


def remove_control_groups(group: str) -> list[str]:
    """Kills what is in the group and all below it, and removes them; returns what could not be removed."""
    deadline = time.monotonic() + REMOVE_TIMEOUT_S
    return [str(directory) for directory in _directories(group) if not _remove(directory, deadline)]


def _remove(directory: Path, deadline: float) -> bool:
    while True:
        for folder, _, _ in os.walk(directory, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(folder)
        if not directory.exists():
            return True
        _kill_members(directory)
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_S)  # a killed process is a member until it is reaped


def _kill_members(directory: Path) -> None:
    for folder, _, _ in os.walk(directory):
        with contextlib.suppress(OSError):
            for pid in Path(folder, "cgroup.procs").read_text().split():
                os.kill(int(pid), signal.SIGKILL)


def _directories(group: str) -> Iterator[Path]:
    with contextlib.suppress(FileNotFoundError):
        for hierarchy in (_ROOT, *_ROOT.iterdir()):
            directory = hierarchy / group.lstrip("/")
            if not hierarchy.is_symlink() and directory.is_dir():
                yield directory
