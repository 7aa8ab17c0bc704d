"""A daemon that keeps one etcd running: ``python -m milpa_ray.store.etcd_supervisor BINARY CONFIG RUN_DIR LOG``.

It starts etcd again when it dies. An etcd that outlived an earlier supervisor is adopted, not started twice. SIGTERM
ends both; a supervisor killed outright leaves etcd running. If its first etcd exits at once it gives up, since the
configuration is wrong then.
"""

import os
import select
import signal
import sys
import time
from pathlib import Path

from milpa_ray.store.process_id import ProcessId

ETCD_PID = "etcd.pid"
SUPERVISOR_PID = "etcd-supervisor.pid"
STOP_GRACE_S = 10.0
_FIRST_LIFE_S = 3.0
_PAUSES_S = (0.2, 1.0, 5.0, 15.0)
_LONG_LIFE_S = 60.0
_LOG_MAX_BYTES = 16 * 2**20


class Supervisor:
    """Keeps etcd running until told to stop."""

    def __init__(self, binary: str, config: str, run_dir: Path, log: Path) -> None:
        self._command = [binary, "--config-file", config]
        self._pid_file = run_dir / ETCD_PID
        self._log = log
        self._wake, self._signalled = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def stop_soon(self, *_: object) -> None:
        """Signal handler."""
        os.write(self._signalled, b"x")

    def run(self) -> int:
        """Exit code: 0 when told to stop, 1 when the first etcd ended at once."""
        deaths = 0
        while True:
            known = ProcessId.load(self._pid_file)
            adopted = known if known is not None and known.alive() else None
            started_at = time.monotonic()
            etcd = adopted or self._spawn()
            if self._told_to_stop(etcd, None):
                etcd.end(STOP_GRACE_S)
                self._pid_file.unlink(missing_ok=True)
                return 0
            refused = adopted is None and _ended_by_itself(etcd.pid)
            lived_s = time.monotonic() - started_at
            if refused and not deaths and lived_s < _FIRST_LIFE_S:
                self._pid_file.unlink(missing_ok=True)
                return 1
            deaths = 1 if lived_s > _LONG_LIFE_S else deaths + 1
            pause_s = _PAUSES_S[min(deaths, len(_PAUSES_S)) - 1]
            print(f"etcd ended after {lived_s:.0f} s; starting it again in {pause_s} s", file=sys.stderr, flush=True)
            if self._told_to_stop(None, pause_s):
                return 0

    def _spawn(self) -> ProcessId:
        if self._log.exists() and self._log.stat().st_size > _LOG_MAX_BYTES:
            self._log.replace(self._log.with_name(self._log.name + ".1"))
        descriptor = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
        finally:
            os.close(descriptor)
        pid = os.posix_spawn(self._command[0], self._command, dict(os.environ))
        etcd = ProcessId.of(pid) or ProcessId(pid, 0, "")  # it may have ended already
        etcd.save(self._pid_file)
        return etcd

    def _told_to_stop(self, etcd: ProcessId | None, timeout_s: float | None) -> bool:
        """Waits for the order to stop (True), or for etcd's end or the time-out (False)."""
        watched = [self._wake]
        if etcd is not None:
            try:
                watched.append(os.pidfd_open(etcd.pid))
            except ProcessLookupError:
                return False
        try:
            ready, _, _ = select.select(watched, [], [], timeout_s)
        finally:
            for handle in watched[1:]:
                os.close(handle)
        return self._wake in ready


def _ended_by_itself(child: int) -> bool:
    """Reaps it; whether no signal ended it."""
    _, status = os.waitpid(child, 0)
    return os.WIFEXITED(status)


def main(arguments: list[str]) -> int:
    """Entry point of the daemon."""
    binary, config, run_dir, log = arguments
    supervisor = Supervisor(binary, config, Path(run_dir), Path(log))
    signal.signal(signal.SIGTERM, supervisor.stop_soon)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    os.chdir("/")
    return supervisor.run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
