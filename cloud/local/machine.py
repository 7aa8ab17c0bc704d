"""One instance's namespaces and its PID 1: starting, finding again, watching and killing.

Knows processes only: no records, no states, no network cards. Calls block for milliseconds; run them in a thread.
"""

import contextlib
import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

BOOT_STEP_TIMEOUT_S = 20.0
"""Longest wait for one line of a starting instance. Generous: a loaded laptop may start 50 at a time."""

_INIT = Path(__file__).with_name("init.sh")
_NAMESPACES = ("--net", "--pid", "--mount", "--uts", "--ipc", "--propagation", "slave")
_DROPPED_ENVIRONMENT = frozenset({"PYTHONDONTWRITEBYTECODE", "PYTHONPATH", "PYTHONSTARTUP", "NOTIFY_SOCKET"})
_HOSTS_CLOUD = "AWS_"
"""Begins the variables of AWS' tools: keys of the host, and where its metadata service is, or that there is none. An
instance has its own."""


class BootError(Exception):
    """The instance's init ended or stayed silent during its set-up."""


@dataclass(frozen=True, slots=True)
class BootSpec:
    """What an instance's init is told. ``address`` has its prefix length; ``directory`` becomes the working one."""

    instance_id: str
    directory: Path
    address: str
    gateway: str
    hostname: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Booting:
    """An instance whose init waits for ``release``."""

    process: subprocess.Popen[bytes]
    pid: int
    start_time: int

    def release(self) -> None:
        """Lets init configure itself and start the agent; returns when that is done.

        Raises:
            BootError: init failed; it is dead.
        """
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None
        assert stdout is not None
        try:
            stdin.write(b"go\n")
            stdin.close()
            if _read_line(stdout.fileno()) != "up":
                raise BootError("the instance's init failed; its console.log says why")
        except (OSError, BootError) as error:
            self.abandon()
            raise BootError(str(error)) from error
        finally:
            stdout.close()

    def abandon(self) -> None:
        """Kills init before it has been released."""
        kill(self.pid, self.start_time)
        self.process.kill()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        self.process.wait()


def spawn(spec: BootSpec) -> Booting:
    """Starts the instance's namespaces with an init that waits to be released.

    Raises:
        BootError: it did not come up (no privilege, no such binary).
    """
    environment = {**_hosts_environment(), "MILPA_INSTANCE": spec.instance_id, **spec.environment}
    arguments = [spec.address, spec.gateway, spec.hostname, *spec.command]
    with (spec.directory / "console.log").open("ab") as console:
        process = subprocess.Popen(
            ["unshare", *_NAMESPACES, "--fork", "--", "/bin/sh", str(_INIT), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=console,
            cwd=spec.directory,
            env=environment,
            start_new_session=True,
            umask=0o022,  # the daemon's own is narrower; images would be unpacked with wrong modes
        )
    assert process.stdout is not None
    try:
        pid, start_time = _parse_stat(_read_line(process.stdout.fileno()))
    except (BootError, ValueError, IndexError) as error:
        process.kill()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()
        process.wait()
        raise BootError(f"the instance's init did not start: {error}; its console.log says why") from error
    return Booting(process, pid, start_time)


def _hosts_environment() -> dict[str, str]:
    """What of ours instances start with, such as PATH and proxies."""
    return {
        key: value
        for key, value in os.environ.items()
        if key not in _DROPPED_ENVIRONMENT and not key.startswith(_HOSTS_CLOUD)
    }


def open_pidfd(pid: int, start_time: int) -> int | None:
    """A pidfd of exactly that process (readable once it is dead); None when it is gone."""
    if pid <= 0:
        return None
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return None
    if start_time_of(pid) != start_time:
        os.close(descriptor)
        return None
    return descriptor


def kill(pid: int, start_time: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Signals exactly that process; killing an init takes its PID namespace along. Nothing happens when it is gone."""
    descriptor = open_pidfd(pid, start_time)
    if descriptor is not None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(descriptor, number)
        os.close(descriptor)


def kill_and_wait(pid: int, start_time: int, timeout_s: float) -> bool:
    """Kills as ``kill`` does and waits for the end; False when it has not come in time."""
    kill(pid, start_time)
    return wait_for_end(pid, start_time, timeout_s)


def alive(pid: int, start_time: int) -> bool:
    """Whether exactly that process lives. A process of several threads whose first one has ended lives on: it still
    holds its locks and sockets."""
    return not wait_for_end(pid, start_time, 0.0)


def wait_for_end(pid: int, start_time: int, timeout_s: float) -> bool:
    """Waits for the end of exactly that process; False when it has not come in time."""
    descriptor = open_pidfd(pid, start_time)
    if descriptor is None:
        return True
    try:
        return bool(select.select([descriptor], [], [], timeout_s)[0])
    finally:
        os.close(descriptor)


def start_time_of(pid: int) -> int:
    """Start time of a process in clock ticks since boot; 0 when it is gone."""
    try:
        return _parse_stat(Path(f"/proc/{pid}/stat").read_text())[1]
    except OSError:
        return 0


def default_agent_command(python: str = sys.executable) -> tuple[str, ...]:
    """Command of the real node agent; the hypervisor appends its options."""
    return (python, "-m", "nodeagent")


def _parse_stat(line: str) -> tuple[int, int]:
    """(pid, start time) of a /proc/<pid>/stat line; the name in parentheses may hold anything."""
    head, _, rest = line.rpartition(")")
    return int(head.split(" ", 1)[0]), int(rest.split()[19])


def _read_line(descriptor: int) -> str:
    """One line of an instance's init, which waits for an answer after each: nothing of a later line can be read."""
    data = b""
    while not data.endswith(b"\n"):
        if not select.select([descriptor], [], [], BOOT_STEP_TIMEOUT_S)[0]:
            raise BootError(f"silent for {BOOT_STEP_TIMEOUT_S:g} s")
        chunk = os.read(descriptor, 4096)
        if not chunk:
            raise BootError("ended")
        data += chunk
    return data.decode(errors="replace").strip()
