"""The embedded etcd: started, found again and stopped on this machine, when no external one is named.

etcd and its supervisor are daemons in sessions of their own, so they outlive whoever starts them. What runs is found by
pid files in the run folder. The store's data is never deleted here.
"""

import fcntl
import json
import logging
import os
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from milpa_ray.errors import Invalid, StoreUnavailable, Terminal
from milpa_ray.store.etcd_binary import find_etcd
from milpa_ray.store.etcd_supervisor import ETCD_PID, STOP_GRACE_S, SUPERVISOR_PID
from milpa_ray.store.process_id import ProcessId

DEFAULT_DATA_DIR = "/opt/milpa/data"
DEFAULT_PORT = 2379
QUOTA_BYTES = 8 * 2**30
START_TIMEOUT_S = 30.0
_MARK_INTERVAL_NS = 1_000_000_000
"""Progress marks of idle watches; etcd's own default is 10 minutes."""
_PAUSE_S = 0.05
_TAIL_LINES = 5
_log = logging.getLogger(__name__)


class EmbeddedEtcd:
    """One etcd per run folder. ``data_dir`` and ``config_file`` are ``etcd.internal``'s of ``server.yml``; empty: not
    given. ``client_port`` 0: the port of last time, else 2379, else any free one. It listens on loopback only, unless
    the configuration file says otherwise."""

    def __init__(
        self, data_dir: str, run_dir: str, log_file: str, config_file: str = "", *, client_port: int = 0
    ) -> None:
        self._data_dir = data_dir
        self._run_dir = Path(run_dir).absolute()
        self._log_file = Path(log_file).absolute()
        self._config_file = config_file
        self._client_port = client_port
        self._config = self._run_dir / "etcd.yml"

    def start(self, *, timeout_s: float = START_TIMEOUT_S) -> str:
        """Starts etcd if it does not run, and waits until it is healthy; its client endpoint.

        Raises:
            Invalid: the configuration is wrong. Terminal: etcd is missing or does not start.
            StoreUnavailable: it is not healthy in time; it goes on starting.
        """
        binary = find_etcd()
        self._make_folders()
        with self._lock():
            supervisor = self._alive(SUPERVISOR_PID)
            if supervisor is None:
                if self._alive(ETCD_PID) is None:
                    self._write_config()
                log_size = self._log_file.stat().st_size if self._log_file.exists() else 0
                supervisor = self._spawn(binary)
            else:
                log_size = 0
            endpoint = self._endpoint()
            self._wait_healthy(endpoint, supervisor, timeout_s, log_size)
        return endpoint

    def running(self) -> str | None:
        """The client endpoint, if etcd's process runs; healthy or not."""
        return self._endpoint() if self._alive(ETCD_PID) else None

    def stop(self) -> None:
        """Ends etcd and its supervisor, if they run; a process that is not ours is never touched."""
        if not self._run_dir.is_dir():
            return
        with self._lock():
            for name, grace_s in ((SUPERVISOR_PID, 2 * STOP_GRACE_S), (ETCD_PID, STOP_GRACE_S)):
                process = self._alive(name)
                if process is not None:
                    process.end(grace_s)
                (self._run_dir / name).unlink(missing_ok=True)

    # ------------------------------------------------------------ configuration

    def _write_config(self) -> None:
        """Our settings below the user's, in one file: etcd ignores all flags once it is given a file."""
        user = self._user_config()
        if self._data_dir and user.get("data-dir"):
            raise Invalid(
                f"etcd.internal: the data directory is given twice, as dataDir and as data-dir in {self._config_file}; "
                "remove one"
            )
        client = f"http://127.0.0.1:{self._choose_port()}"
        peer = f"http://127.0.0.1:{_free_port()}"
        config: dict[str, Any] = {
            "name": "default",
            "data-dir": self._data_dir or DEFAULT_DATA_DIR,
            "listen-client-urls": client,
            "advertise-client-urls": user.get("listen-client-urls", client),
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": user.get("listen-peer-urls", peer),
            "quota-backend-bytes": QUOTA_BYTES,
            "auto-compaction-retention": "0",
            "experimental-watch-progress-notify-interval": _MARK_INTERVAL_NS,
            "logger": "zap",
            "log-level": "warn",
            **user,
        }
        config.setdefault("initial-cluster", f"{config['name']}={config['initial-advertise-peer-urls']}")
        self._check_client_url(config["listen-client-urls"])
        data_dir = Path(config["data-dir"]).absolute()
        config["data-dir"] = str(data_dir)
        try:
            data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise Invalid(f"etcd.internal: cannot make the data directory {data_dir}: {error.strerror}") from None
        self._config.write_text(yaml.safe_dump(config))

    def _user_config(self) -> dict[str, Any]:
        if not self._config_file:
            return {}
        try:
            loaded = yaml.safe_load(Path(self._config_file).read_text())
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise Invalid(f"etcd.internal.configFile: cannot read {self._config_file}: {error}") from None
        if loaded is None:
            return {}
        if not isinstance(loaded, dict):
            raise Invalid(f"etcd.internal.configFile: {self._config_file} is no mapping of etcd's settings")
        return loaded

    def _check_client_url(self, urls: str) -> None:
        url = urlsplit(urls.split(",")[0].strip())
        if url.scheme != "http":
            raise Invalid(
                f"etcd.internal.configFile: listen-client-urls {urls!r} must start with http://; "
                "for TLS run etcd on your own and name it in etcd.client.endpoints"
            )
        if not _is_free(url.port or DEFAULT_PORT):
            # Else the health check would be answered by whoever listens there, and we would use a stranger's etcd.
            raise Terminal(f"another process listens on {url.netloc}; stop it or choose another port for etcd")
        if url.hostname not in ("127.0.0.1", "localhost", "::1"):
            _log.warning("etcd listens on %s: whoever reaches it controls the cluster", url.netloc)

    def _choose_port(self) -> int:
        if self._client_port:
            return self._client_port
        last = urlsplit(self._endpoint()).port if self._config.exists() else None
        return next((port for port in (last, DEFAULT_PORT) if port and _is_free(port)), None) or _free_port()

    def _endpoint(self) -> str:
        urls = yaml.safe_load(self._config.read_text())["listen-client-urls"]
        return str(urls).split(",")[0].strip()

    # ------------------------------------------------------------ processes

    def _make_folders(self) -> None:
        for folder in (self._run_dir, self._log_file.parent):
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise Terminal(f"cannot make {folder}: {error.strerror}") from None

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """One start or stop at a time on this machine."""
        with (self._run_dir / "etcd.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _alive(self, name: str) -> ProcessId | None:
        process = ProcessId.load(self._run_dir / name)
        return process if process is not None and process.alive() else None

    def _spawn(self, binary: str) -> ProcessId:
        arguments = [binary, str(self._config), str(self._run_dir), str(self._log_file)]
        log = (self._log_file.as_posix(), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        pid = os.posix_spawn(
            sys.executable,
            [sys.executable, "-m", "milpa_ray.store.etcd_supervisor", *arguments],
            {name: value for name, value in os.environ.items() if not name.startswith("ETCD_")},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, *log),
                (os.POSIX_SPAWN_OPEN, 2, *log),
            ],
            setsid=True,
        )
        process = ProcessId.of(pid) or ProcessId(pid, 0, "")
        process.save(self._run_dir / SUPERVISOR_PID)
        return process

    def _wait_healthy(self, endpoint: str, supervisor: ProcessId, timeout_s: float, log_size: int) -> None:
        deadline = time.monotonic() + timeout_s
        while not _healthy(endpoint):
            if supervisor.wait(_PAUSE_S):
                raise Terminal(f"etcd did not start; its log {self._log_file} ends:\n{self._tail(log_size)}")
            if time.monotonic() > deadline:
                raise StoreUnavailable(
                    f"etcd at {endpoint} is not healthy after {timeout_s:.0f} s; "
                    f"its log {self._log_file} ends:\n{self._tail(log_size)}"
                )

    def _tail(self, start: int) -> str:
        try:
            with self._log_file.open("rb") as file:
                file.seek(start)
                lines = file.read().decode(errors="replace").splitlines()
        except OSError:
            return "(no log)"
        return "\n".join(lines[-_TAIL_LINES:])


def _healthy(endpoint: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{endpoint}/health", timeout=2) as answer:
            return bool(json.load(answer).get("health") == "true")
    except (urllib.error.URLError, OSError, ValueError):
        return False


def _is_free(port: int) -> bool:
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
