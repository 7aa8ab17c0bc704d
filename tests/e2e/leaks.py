"""Finds everything of a Milpa home on the machine: looks for itself, not through Milpa's own code."""

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_KINDS = ("net", "mnt", "pid", "uts", "ipc")


@dataclass(frozen=True)
class Marks:
    """What tells a Milpa's things from others': ``paths`` are its directories."""

    paths: tuple[str, ...]
    bridge: str
    subnet: str


def traces(marks: Marks) -> dict[str, set[str]]:
    """What is there, by kind; kinds of which nothing is there are left out."""
    processes = {pid for pid in _pids() if _is_ours(pid, marks)}
    found = {
        "process": {f"{pid} {_read(f'/proc/{pid}/cmdline')[:200]!r}" for pid in processes},
        "namespace": {space for pid in processes for space in _namespaces(pid)} - _namespaces(os.getpid()),
        "mount": set(_mounts(marks)),
        "card": {name for name in os.listdir("/sys/class/net") if _is_card_of(name, marks.bridge)},
        "table": {line for line in _output("nft", "list", "tables").splitlines() if marks.bridge in line},
        "control group": {folder for folder, _, _ in os.walk("/sys/fs/cgroup") if f"milpa-{marks.bridge}" in folder},
        "route": {line for line in _output("ip", "route").splitlines() if marks.bridge in line or marks.subnet in line},
    }
    return {kind: things for kind, things in found.items() if things}


def held(namespaces: set[str], before: int) -> set[str]:
    """Which of these namespaces anything still holds: a mount, or a process (maybe by an open file) that was started
    ``before`` (clock ticks since boot); the kernel may have given their numbers to younger ones."""
    alive = {
        space for pid in _pids() if 0 < _start_of(pid) < before for space in _namespaces(pid) | _open_namespaces(pid)
    }
    mounted = {line.split(" ")[3] for line in _read("/proc/self/mountinfo").splitlines() if " nsfs " in line}
    return namespaces & (alive | mounted)


def now_in_ticks() -> int:
    """Clock ticks since boot."""
    return int(float(_read("/proc/uptime").split()[0]) * os.sysconf("SC_CLK_TCK"))


def _start_of(pid: int) -> int:
    """When a process started; 0 when it is gone."""
    words = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return int(words[19]) if words else 0


def _pids() -> list[int]:
    return [int(entry) for entry in os.listdir("/proc") if entry.isdecimal()]


def _is_ours(pid: int, marks: Marks) -> bool:
    if pid == os.getpid():
        return False
    texts = [_read(f"/proc/{pid}/{name}") for name in ("cmdline", "environ")]
    texts += _links([f"/proc/{pid}/cwd"])
    return f"milpa-{marks.bridge}/" in _read(f"/proc/{pid}/cgroup") or any(
        path in text for path in marks.paths for text in texts
    )


def _namespaces(pid: int) -> set[str]:
    return set(_links(f"/proc/{pid}/ns/{kind}" for kind in _KINDS))


def _open_namespaces(pid: int) -> set[str]:
    try:
        descriptors = [f"/proc/{pid}/fd/{name}" for name in os.listdir(f"/proc/{pid}/fd")]
    except OSError:
        return set()
    return {target for target in _links(descriptors) if target.split(":")[0] in _KINDS}


def _links(paths: "Iterator[str] | list[str]") -> Iterator[str]:
    for path in paths:
        try:
            yield os.readlink(path)
        except OSError:
            continue


def _mounts(marks: Marks) -> Iterator[str]:
    """Mounts of ours in any mount namespace."""
    seen = set()
    for pid in _pids():
        space = next(_links([f"/proc/{pid}/ns/mnt"]), "")
        if space not in seen:
            seen.add(space)
            for line in _read(f"/proc/{pid}/mountinfo").splitlines():
                if any(path in line for path in marks.paths):
                    yield f"{space} {line}"


def _is_card_of(name: str, bridge: str) -> bool:
    master = next(_links([f"/sys/class/net/{name}/master"]), "")
    return name == bridge or Path(master).name == bridge


def _read(path: str) -> str:
    try:
        return Path(path).read_bytes().decode(errors="replace")
    except OSError:
        return ""


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout
