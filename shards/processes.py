"""Finds and ends the processes of one directory, by pid and never by name.

A process belongs to a directory when its working directory lies in it. Ray's processes overwrite their titles and, with
them, their environment, and workers come and go; the working directory is what all of them keep. It follows that
nothing which is to outlive Ray may be started from within Ray with that working directory.
"""

import contextlib
import os
import select
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_ROUNDS = 20
"""How often the directory is looked at again for processes that were started meanwhile."""


@dataclass(frozen=True, slots=True)
class Process:
    """A process as it was found. ``title`` is its command line, shortened."""

    pid: int
    title: str
    rss_bytes: int


def processes_in(directory: Path) -> list[Process]:
    """Living processes (zombies left out) whose working directory is ``directory`` or below, by pid."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdecimal() and _belongs(int(entry), directory):
            with contextlib.suppress(OSError, ValueError, IndexError):
                found.append(_describe(int(entry)))
    return sorted(found, key=lambda process: process.pid)


def end_all(directory: Path, grace_s: float) -> list[Process]:
    """Ends all processes of ``directory``: SIGTERM, after ``grace_s`` seconds SIGKILL. Returns what was ended.

    Raises:
        TimeoutError: some could not be ended.
    """
    ended: dict[int, Process] = {}
    for round_number in range(_ROUNDS):
        found = processes_in(directory)
        if not found:
            return list(ended.values())
        ended.update({process.pid: process for process in found})
        pids = [process.pid for process in found]
        if round_number == 0:
            _signal(directory, pids, signal.SIGTERM, grace_s)
        else:
            _signal(directory, pids, signal.SIGKILL, 5.0)
    left = ", ".join(f"{process.pid} ({process.title})" for process in processes_in(directory))
    if left:
        raise TimeoutError(f"these processes of {directory} do not end: {left}")
    return list(ended.values())


def _belongs(pid: int, directory: Path) -> bool:
    try:
        cwd = os.readlink(f"/proc/{pid}/cwd")
    except OSError:
        return False
    # The kernel marks a working directory that was removed.
    cwd = cwd.removesuffix(" (deleted)")
    return cwd == str(directory) or cwd.startswith(f"{directory}/")


def _describe(pid: int) -> Process:
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        words = file.read().rstrip(b"\0 ").decode(errors="replace").split("\0")
    with open(f"/proc/{pid}/statm", "rb") as file:
        resident = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    title = words[0] if words[0].startswith("ray::") else " ".join(Path(word).name for word in words[:4])
    return Process(pid, title[:80].strip(), resident)


def _signal(directory: Path, pids: Iterable[int], number: int, wait_s: float) -> None:
    """Signals the processes and waits for their end. A pid file descriptor, with the check made again after it was
    opened, cannot hit another process that has got the pid meanwhile."""
    with contextlib.ExitStack() as stack:
        waiting: set[int] = set()
        for pid in pids:
            try:
                descriptor = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
            stack.callback(os.close, descriptor)
            if not _belongs(pid, directory):
                continue
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, number)
                waiting.add(descriptor)
        deadline = time.monotonic() + wait_s
        poll = select.poll()
        for descriptor in waiting:
            poll.register(descriptor, select.POLLIN)
        while waiting and (left_s := deadline - time.monotonic()) > 0:
            for descriptor, _ in poll.poll(left_s * 1000):
                poll.unregister(descriptor)
                waiting.discard(descriptor)
