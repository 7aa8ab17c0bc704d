"""A process named so that it cannot be mistaken for another: pid, start time and boot. Linux only.

Pids are used again; a pid file alone may name a stranger. Signals go through a pidfd, so none can hit one either.
"""

import os
import select
import signal
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class ProcessId:
    """``started``: clock ticks from boot to the process's start."""

    pid: int
    started: int
    boot: str

    @classmethod
    def of(cls, pid: int) -> Self | None:
        """The process that has ``pid`` now; None: there is none, or it has ended and waits to be reaped."""
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (OSError, UnicodeDecodeError):
            return None
        if not fields or fields[0] in "ZX":
            return None
        return cls(pid, int(fields[19]), _BOOT_ID.read_text().strip())

    @classmethod
    def load(cls, path: Path) -> Self | None:
        """From a pid file; None: no file, or not one of ours."""
        try:
            pid, started, boot = path.read_text().split()
            return cls(int(pid), int(started), boot)
        except (OSError, ValueError):
            return None

    def save(self, path: Path) -> None:
        """Writes the pid file in one step."""
        draft = path.with_suffix(".new")
        draft.write_text(f"{self.pid} {self.started} {self.boot}\n")
        draft.replace(path)

    def alive(self) -> bool:
        return ProcessId.of(self.pid) == self

    def send(self, number: signal.Signals) -> None:
        """Sends a signal; no error when the process has ended."""
        try:
            handle = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            if self.alive():  # the handle holds this very process, so it stays the one that was checked
                signal.pidfd_send_signal(handle, number)
        except ProcessLookupError:
            return
        finally:
            os.close(handle)

    def wait(self, timeout_s: float) -> bool:
        """Waits for its end; False: it still runs. Reaps it when it is a child."""
        try:
            handle = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return True
        try:
            if self.alive():
                poller = select.poll()
                poller.register(handle, select.POLLIN)
                poller.poll(timeout_s * 1000)
            if self.alive():
                return False
        finally:
            os.close(handle)
        with suppress(ChildProcessError):
            os.waitpid(self.pid, os.WNOHANG)
        return True

    def end(self, grace_s: float) -> None:
        """SIGTERM, and SIGKILL after the grace."""
        self.send(signal.SIGTERM)
        if not self.wait(grace_s):
            self.send(signal.SIGKILL)
            self.wait(grace_s)
