"""Starts, stops and takes down a local cloud from outside its daemon; used by ``milpa up``, ``stop`` and ``down``.

Synchronous. Works from what is on disk, so that everything can be taken down when the daemon is dead, too.
"""

import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

from cloud.local import machine, sweep
from cloud.local.network import Network, NetworkError
from cloud.local.records import boot_id
from milpa_ray.errors import MilpaError

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 30.0
DOWN_TIMEOUT_S = 60.0
LOG_LIMIT_BYTES = 16 << 20
_POLL_S = 0.02
_LOCK_FILE = "hypervisor.lock"


class LocalCloudError(MilpaError):
    """The local cloud cannot be started or taken down; the message names the remedy."""


@dataclass(frozen=True, slots=True)
class CloudOptions:
    """How a local cloud is set up. Two on one machine need different bridges and subnets.

    ``registry_ports``: loopback ports of the host that instances reach at the gateway. ``host_ports``: ports of the
    host itself open to instances. ``catalog``: folder of refreshed prices and zones, if there is one.
    ``agent_command`` replaces the node agent (tests only).
    """

    bridge: str = "milpa0"
    subnet: str = "10.210.0.0/16"
    region: str = "us-east-1"
    catalog: str = ""
    registry_ports: tuple[int, ...] = (5000,)
    host_ports: tuple[int, ...] = (54555,)
    boot_delay_s: float = 0.0
    max_instances: int = 250
    terminated_kept_s: float = 300.0
    agent_port: int = 6421
    agent_command: str = ""

    def arguments(self) -> list[str]:
        """As the daemon's command line."""
        command = ["--bridge", self.bridge, "--subnet", self.subnet, "--region", self.region]
        command += ["--catalog", self.catalog] if self.catalog else []
        command += ["--registry-port", *map(str, self.registry_ports), "--host-port", *map(str, self.host_ports)]
        command += ["--boot-delay", str(self.boot_delay_s), "--max-instances", str(self.max_instances)]
        command += ["--terminated-kept", str(self.terminated_kept_s), "--agent-port", str(self.agent_port)]
        return [*command, "--agent-command", self.agent_command]


class LocalCloud:
    """One local cloud: instances and images below ``directory``, socket in ``run_dir`` (keep that path short)."""

    def __init__(self, directory: Path, run_dir: Path, options: CloudOptions | None = None) -> None:
        self.directory = directory.absolute()
        self.socket = run_dir.absolute() / "hypervisor.sock"
        self.options = options or CloudOptions()
        self.log_file = self.directory / "hypervisor.log"

    def running(self) -> bool:
        """Whether the daemon runs and takes calls."""
        return self._pid() is not None and self._answers()

    def start(self) -> None:
        """Starts the daemon and waits until it takes calls; finds one that runs already. One with other options is
        replaced, its instances go on.

        Raises:
            LocalCloudError: it cannot start; says why and what helps.
        """
        if os.geteuid() != 0:
            raise LocalCloudError("the local cloud needs root (network namespaces, mounts): run it with sudo")
        before = self._saved_options()
        if before is not None:
            self._refuse_other_network(before)
        if self._pid() is not None:
            if before == self.options:
                self._wait_ready(None)
                return
            self.stop()
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self.directory / "options.json").write_text(json.dumps(asdict(self.options)))
        self._wait_ready(self._spawn())

    def stop(self) -> None:
        """Ends the daemon; the instances go on. Nothing happens when none runs."""
        found = self._pid()
        if found is not None:
            machine.kill(*found, number=signal.SIGTERM)
            if not machine.wait_for_end(*found, timeout_s=STOP_TIMEOUT_S):
                machine.kill_and_wait(*found, timeout_s=STOP_TIMEOUT_S)

    def down(self, remove_data: bool = False) -> None:
        """Terminates all instances and removes everything of this cloud from the machine; works without the daemon.
        Kept, unless ``remove_data``: cached images, logs, and what is known of launches and terminated instances.

        Raises:
            LocalCloudError: something is left; it says what.
        """
        if not self.directory.exists():
            return
        if os.geteuid() != 0:
            raise LocalCloudError("taking down the local cloud needs root: run it with sudo")
        self.stop()
        with self._lock():
            network = self._network(self._saved_options() or self.options)
            deadline = time.monotonic() + DOWN_TIMEOUT_S
            while True:
                sweep.remove_all(self.directory, network)
                left = sweep.leftovers(self.directory, network)
                if not left:
                    break
                if time.monotonic() > deadline:
                    raise LocalCloudError(f"the local cloud is not down: still there are {', '.join(left[:10])}")
                time.sleep(_POLL_S)
            self.socket.unlink(missing_ok=True)
            (self.directory / "options.json").unlink(missing_ok=True)
            if remove_data:
                sweep.remove_data(self.directory)

    def leftovers(self) -> list[str]:
        """What of this cloud, besides data, is on the machine."""
        return sweep.leftovers(self.directory, self._network(self._saved_options() or self.options))

    # ------------------------------------------------------------ inside

    def _spawn(self) -> subprocess.Popen[bytes]:
        with contextlib.suppress(FileNotFoundError):
            if self.log_file.stat().st_size > LOG_LIMIT_BYTES:
                self.log_file.replace(self.log_file.with_suffix(".log.1"))
        command = [sys.executable, "-m", "cloud.local.hypervisor", "--dir", str(self.directory)]
        command += ["--socket", str(self.socket), *self.options.arguments()]
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        with self.log_file.open("ab") as output:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",
                env=environment,
                start_new_session=True,
            )

    def _wait_ready(self, process: "subprocess.Popen[bytes] | None") -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._answers():
            if process is not None and process.poll() is not None:
                raise LocalCloudError(f"the local cloud did not start: {self._last_words()} (log: {self.log_file})")
            if time.monotonic() > deadline:
                raise LocalCloudError(
                    f"the local cloud does not answer on {self.socket} after {START_TIMEOUT_S:g} s "
                    f"(log: {self.log_file})"
                )
            time.sleep(_POLL_S)

    def _last_words(self) -> str:
        lines = self.log_file.read_text(errors="replace").strip().splitlines()
        return lines[-1].removeprefix("error: ") if lines else "it said nothing"

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1.0)
            try:
                probe.connect(str(self.socket))
            except OSError:
                return False
            return True

    def _pid(self) -> tuple[int, int] | None:
        """PID and start time of the daemon, if it lives."""
        try:
            pid_text, start_text, boot = (self.directory / _LOCK_FILE).read_text().split()
            pid, start_time = int(pid_text), int(start_text)
        except (OSError, ValueError):
            return None
        if boot != boot_id():
            return None
        return (pid, start_time) if machine.alive(pid, start_time) else None

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        """Keeps daemons from starting."""
        with (self.directory / _LOCK_FILE).open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise LocalCloudError(
                    f"a hypervisor of {self.directory} is starting at this moment; try again"
                ) from error
            yield

    def _saved_options(self) -> CloudOptions | None:
        """Options of the last start."""
        try:
            saved = json.loads((self.directory / "options.json").read_text())
        except (OSError, ValueError):
            return None
        known = {entry.name for entry in fields(CloudOptions)}
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in saved.items()
        }
        return CloudOptions(**{key: value for key, value in values.items() if key in known})

    def _refuse_other_network(self, before: CloudOptions) -> None:
        if (before.bridge, before.subnet) != (self.options.bridge, self.options.subnet):
            raise LocalCloudError(
                f"the local cloud in {self.directory} was started with bridge {before.bridge} and subnet "
                f"{before.subnet}; take it down (milpa down) before changing them"
            )

    def _network(self, options: CloudOptions) -> Network:
        try:
            return Network(options.bridge, IPv4Network(options.subnet), str(self.directory))
        except (NetworkError, ValueError) as error:
            raise LocalCloudError(str(error)) from error
