"""Waiting for processes that are not our children, without polling and without mistaking a reused pid for them."""

import asyncio
import os
from pathlib import Path


class ProcessHandle:
    """A process held by a pidfd: from ``open`` on it is this one or a dead one, never another with its number."""

    def __init__(self, pid: int, descriptor: int) -> None:
        self.pid = pid
        self.descriptor = descriptor

    @classmethod
    def open(cls, pid: int, word: str = "") -> "ProcessHandle | None":
        """None when it is gone or its command line lacks ``word``."""
        try:
            descriptor = os.pidfd_open(pid)
        except (ProcessLookupError, OSError):
            return None
        if word and word not in command_line(pid):
            os.close(descriptor)
            return None
        return cls(pid, descriptor)

    async def wait(self) -> None:
        """Returns when the process has ended. One waiter at a time."""
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()

        def readable() -> None:
            if not ended.done():
                ended.set_result(None)

        loop.add_reader(self.descriptor, readable)
        try:
            await ended
        finally:
            loop.remove_reader(self.descriptor)

    def close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


def command_line(pid: int) -> list[str]:
    """The arguments of a process; empty when it is gone or a zombie."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    except (FileNotFoundError, ProcessLookupError):
        return []


def find_by_arguments(*words: str) -> list[int]:
    """Processes whose command line holds all of ``words`` as whole arguments."""
    pids = (int(entry.name) for entry in os.scandir("/proc") if entry.name.isdigit())
    return [pid for pid in pids if set(words) <= set(command_line(pid))]
