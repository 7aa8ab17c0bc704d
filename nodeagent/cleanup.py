"""``python -m nodeagent.cleanup --state-dir DIR``: ends all that an agent's units are and removes what they leave
outside the directory: processes, mounts, cgroups. The directory itself stays.

For whoever owns the machine below the instances, after the agent itself is dead; it also works when the units died
with their PID namespace. Synchronous and light: no gRPC, no asyncio.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

TOOL_TIMEOUT_S = 30.0
TOOL_END_S = 5.0


def clean_up(state_dir: Path) -> list[str]:
    """What could not be removed, in words; empty when nothing of the agent is left. May be called again."""
    root = state_dir.resolve()
    _kill_monitors(root / "exits")
    problems = _end_tools(root)
    problems += _delete_containers(root / "runc")
    problems += _unmount_below(root)
    record = root / "agent.json"
    if record.exists():
        cgroup = json.loads(record.read_text()).get("cgroup", "").strip("/")
        problems += _remove_cgroups(cgroup) if cgroup else []
    return problems


def _kill_monitors(exits: Path) -> None:
    """conmon first, so that it does not report the deaths that follow."""
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if os.path.basename(words[0]) == b"conmon" and os.fsencode(exits) in words:
                os.kill(int(entry.name), signal.SIGKILL)


def _end_tools(root: Path) -> list[str]:
    """Ends what the agent had started when it died: a mount under way would come after all mounts were removed."""
    deadline = time.monotonic() + TOOL_END_S
    while tools := _tools(root):
        if time.monotonic() > deadline:
            return [f"process {pid} ({words[0].decode(errors='replace')}) does not end" for pid, words in tools]
        for pid, _ in tools:
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    return []


def _tools(root: Path) -> list[tuple[int, list[bytes]]]:
    """Processes, with their arguments, that were told to do something below ``root``; a zombie has no arguments."""
    below, found = os.fsencode(root) + b"/", []
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            line = (entry / "cmdline").read_bytes()
            if below in line and int(entry.name) not in (os.getpid(), os.getppid()):
                found.append((int(entry.name), line.split(b"\0")))
    return found


def _delete_containers(runc_root: Path) -> list[str]:
    problems = []
    for container in sorted(runc_root.iterdir()) if runc_root.is_dir() else ():
        argv = ["runc", "--root", str(runc_root), "delete", "--force", container.name]
        try:
            done = subprocess.run(argv, capture_output=True, timeout=TOOL_TIMEOUT_S, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            problems.append(f"container {container.name}: {error}")
            continue
        if done.returncode:
            # Its state may be half-written; what it used is found below by its mounts and cgroups.
            shutil.rmtree(container, ignore_errors=True)
    return problems


def _unmount_below(root: Path) -> list[str]:
    problems = []
    for path in sorted(_mounts_below(root), key=len, reverse=True):
        done = subprocess.run(["umount", "--lazy", path], capture_output=True, timeout=TOOL_TIMEOUT_S, check=False)
        if done.returncode and path in _mounts_below(root):
            problems.append(f"mount {path}: {done.stderr.decode(errors='replace').strip()}")
    return problems


def _mounts_below(root: Path) -> list[str]:
    points = (line.split(" ")[4] for line in Path("/proc/self/mountinfo").read_text().splitlines())
    decoded = (point.encode().decode("unicode_escape").encode("latin-1").decode() for point in points)
    return [point for point in decoded if point.startswith(f"{root}/")]


def _remove_cgroups(name: str) -> list[str]:
    problems = []
    for home in _cgroup_homes(name):
        for folder, _, _ in os.walk(home, topdown=False):
            with suppress(OSError):
                for pid in Path(folder, "cgroup.procs").read_text().split():
                    os.kill(int(pid), signal.SIGKILL)
            if not _remove_when_empty(Path(folder)):
                problems.append(f"cgroup {folder} is still in use")
        with suppress(OSError):  # parents go when no other agent is below them
            for parent in list(home.parents)[: name.count("/")]:
                parent.rmdir()
    return problems


def _remove_when_empty(folder: Path) -> bool:
    """Processes that were just killed hold their cgroup until they are reaped."""
    deadline = time.monotonic() + 5.0
    while time.monotonic() < deadline:
        try:
            folder.rmdir()
        except FileNotFoundError:
            return True
        except OSError:
            time.sleep(0.02)
        else:
            return True
    return False


def _cgroup_homes(name: str) -> Iterator[Path]:
    base = Path("/sys/fs/cgroup")
    for hierarchy in (base, *(path for path in base.iterdir() if path.is_dir() and not path.is_symlink())):
        if (hierarchy / name).is_dir():
            yield hierarchy / name


def main() -> int:
    """Exit code 1 and the reasons on standard error when something is left."""
    parser = argparse.ArgumentParser(
        prog="python -m nodeagent.cleanup", description="Remove what an agent's units left"
    )
    parser.add_argument("--state-dir", type=Path, required=True, help="the dead agent's state directory")
    options = parser.parse_args()
    problems = clean_up(options.state_dir)
    for problem in problems:
        print(f"nodeagent cleanup: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
