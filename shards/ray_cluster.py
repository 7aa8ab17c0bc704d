"""Ray on this host, for one Milpa home: start of a head or a worker, connection, health, end.

Each home has a Ray cluster of its own with its own temporary directory, ports and token, so that several may run on one
machine. It is ended by pid: ``ray stop`` would end every Ray of the machine. Knows nothing of controllers.
"""

import contextlib
import hashlib
import os
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from milpa_ray.errors import MilpaError
from milpa_ray.paths import Home
from shards.processes import Process, end_all, processes_in

NAMESPACE = "milpa"
LOOPBACK = "127.0.0.1"
OBJECT_STORE_BYTES = 80 << 20
"""Near Ray's minimum: nothing of ours travels through Ray's object store."""
START_TIMEOUT_S = 90.0
STOP_GRACE_S = 1.0
MAX_TEMP_DIR = 40
"""Longest path of the temporary directory, so that Ray's sockets below it stay within a socket path's 107 bytes."""
HEAD_PROCESSES = ("gcs_server", "raylet")

_driven: set[Path] = set()
"""The temporary directory of the cluster that this process was a driver of."""


class RayFailed(MilpaError):
    """Ray did not start, or does not answer. Fit for a user."""


@dataclass(frozen=True, slots=True)
class RayCluster:
    """``node_ip`` is this host's address within the Ray cluster; loopback for a cluster of one host, which then
    listens nowhere else."""

    home: Home
    node_ip: str = LOOPBACK

    @property
    def temp_dir(self) -> Path:
        """Ray's directory, and the working directory of all its processes."""
        inside = self.home.run / "ray"
        if len(os.fsencode(inside)) <= MAX_TEMP_DIR:
            return inside
        digest = hashlib.blake2b(os.fsencode(self.home.root), digest_size=6).hexdigest()
        return Path("/tmp") / f"milpa-{digest}"  # noqa: S108 - made with mode 0700 and checked for its owner

    @property
    def token_file(self) -> Path:
        """The secret that all processes of the Ray cluster share; copy it to every host that joins."""
        return self.home.certs / "ray.token"

    @property
    def start_log(self) -> Path:
        return self.home.log / "ray-start.log"

    # ------------------------------------------------------------ state

    def processes(self) -> list[Process]:
        """All living Ray processes of this home on this host, actors included."""
        return processes_in(self.temp_dir)

    def address(self) -> str:
        """Address (``host:port``) of the head that this host last started or joined; empty when there is none."""
        try:
            return (self.temp_dir / "ray_current_cluster").read_text().strip()
        except OSError:
            return ""

    def is_running(self) -> bool:
        """Whether the processes of this host's node live and its head takes connections."""
        titles = [process.title for process in self.processes()]
        needed = HEAD_PROCESSES if self._is_head() else ("raylet",)
        return all(any(name in title for title in titles) for name in needed) and _answers(self.address())

    def _is_head(self) -> bool:
        return any("gcs_server" in process.title for process in self.processes())

    # ------------------------------------------------------------ start and end

    def start_head(self, port: int = 0, autoscaling_config: str = "") -> str:
        """Starts a head, after ending what is left of an earlier one. Returns its address. ``autoscaling_config`` is
        the file with which ``ray up`` has the head start workers on other hosts.

        Raises:
            RayFailed: it did not start; nothing of it is left then.
        """
        options = ["--head", "--port", str(port), "--include-dashboard", "false"]
        options += ["--autoscaling-config", autoscaling_config] if autoscaling_config else ["--no-monitor"]
        return self._start(options)

    def join(self, address: str) -> str:
        """Makes this host a worker of the head at ``address``. The head's token must be in ``token_file``.

        Raises:
            RayFailed: it did not start; nothing of it is left then.
        """
        if not self.token_file.exists():
            raise RayFailed(f"{self.token_file} is missing: copy it from the head's host, it lets this host join")
        if not _answers(address):
            raise RayFailed(f"no Ray head answers at {address}: check the address and the firewall")
        return self._start(["--address", address])

    def stop(self) -> list[Process]:
        """Ends all Ray processes of this home on this host, and removes their files. Returns what was ended.

        Raises:
            RayFailed: some could not be ended.
        """
        try:
            ended = end_all(self.temp_dir, STOP_GRACE_S)
        except TimeoutError as error:
            raise RayFailed(str(error)) from error
        shutil.rmtree(self.temp_dir, ignore_errors=True)
        return ended

    def _start(self, options: list[str]) -> str:
        self.stop()
        self._make_temp_dir()
        self._make_token()
        self.start_log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", *options, *self._options()]
        try:
            with self.start_log.open("wb") as log:
                subprocess.run(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=self.temp_dir,
                    env=self.environment(),
                    start_new_session=True,
                    timeout=START_TIMEOUT_S,
                    check=True,
                )
        except (subprocess.SubprocessError, OSError) as error:
            self.stop()
            raise RayFailed(f"Ray did not start ({_reason(error)}); see {self.start_log}") from error
        except BaseException:
            self.stop()
            raise
        return self.address()

    def _options(self) -> list[str]:
        return [
            *("--node-ip-address", self.node_ip),
            *("--num-cpus", "0"),
            *("--object-store-memory", str(OBJECT_STORE_BYTES)),
            *("--temp-dir", str(self.temp_dir)),
            *("--include-log-monitor", "false"),
            "--disable-usage-stats",
            *("--log-style", "record", "--log-color", "false"),
        ]

    def environment(self) -> dict[str, str]:
        """The environment of Ray's processes: ours, without what others meant for another Ray, with our settings."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        # Ray starts three times as fast from bytecode, so it may be written.
        kept.pop("PYTHONDONTWRITEBYTECODE", None)
        return kept | self._ray_variables()

    def _ray_variables(self) -> dict[str, str]:
        variables = {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.token_file),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_START_HOOK": "shards.ray_start_hook.adjust",
            # Ray's killer would count the memory of the pods on this machine.
            "RAY_memory_monitor_refresh_ms": "0",
            # Ray gives workers niceness 15. Beside any other load controllers then stand still and lose their leases.
            "RAY_worker_niceness": "0",
            "RAY_DEDUP_LOGS": "0",
        }
        if self.node_ip == LOOPBACK:
            # Ray replaces loopback by the machine's address, which a laptop changes, unless it is told that there is
            # but one host; this is its switch for that.
            variables["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        return variables

    def _make_temp_dir(self) -> None:
        self.temp_dir.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            self.temp_dir.mkdir(mode=0o700)
        found = self.temp_dir.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
            raise RayFailed(f"{self.temp_dir} is in the way: it is not a directory of ours alone; remove it")

    def _make_token(self) -> None:
        self.token_file.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            descriptor = os.open(self.token_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_hex(32))

    # ------------------------------------------------------------ connection

    @contextlib.contextmanager
    def connected(self) -> Iterator[None]:
        """Makes this process a driver of the cluster for the time of the context.

        Ray reads its token and settings once per process: import it nowhere before, and use one home per process.

        Raises:
            RayFailed: the head does not answer.
        """
        address = self.address()
        if not _answers(address):
            raise RayFailed("Ray is not running; start it with 'milpa up'")
        if "ray" in sys.modules and self.temp_dir not in _driven:
            raise RuntimeError("Ray was imported in this process before it was told of this home")
        _driven.add(self.temp_dir)
        before = dict(os.environ)
        for name in [name for name in os.environ if name.startswith("RAY_")]:
            del os.environ[name]
        os.environ.update(self._ray_variables())
        restore_handlers = _handlers_kept()
        import ray

        try:
            ray.init(
                address=address,
                namespace=NAMESPACE,
                log_to_driver=False,
                configure_logging=False,
                _node_ip_address=self.node_ip,
            )
            restore_handlers()
            yield
        except ConnectionError as error:
            raise RayFailed(f"Ray at {address} does not answer: {error}") from error
        finally:
            ray.shutdown()
            restore_handlers()
            os.environ.clear()
            os.environ.update(before)


def _handlers_kept() -> Callable[[], None]:
    """Something to call after Ray has changed the handlers of SIGTERM and SIGINT, as it does when it starts and, below
    Python's sight, when it ends."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def restore() -> None:
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                signal.signal(number, handler)

    return restore


def _answers(address: str) -> bool:
    """Whether a TCP connection to ``host:port`` can be made."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        return False
    try:
        with socket.create_connection((host, int(port)), timeout=2.0):
            return True
    except OSError:
        return False


def _reason(error: Exception) -> str:
    if isinstance(error, subprocess.TimeoutExpired):
        return f"not within {START_TIMEOUT_S:.0f} s"
    if isinstance(error, subprocess.CalledProcessError):
        return f"exit code {error.returncode}"
    return str(error)
