"""Real etcd servers for tests: own free ports, own folder, gone with the test run."""

import os
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

from tests.waiting import wait_until


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on at the moment."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in sockets]
    finally:
        for sock in sockets:
            sock.close()


@dataclass
class EtcdServer:
    """One etcd process; alone, or with ``cluster`` (name to peer URL, itself included) a member of several."""

    folder: Path
    name: str = "default"
    client_port: int = 0
    peer_port: int = 0
    cluster: dict[str, str] = field(default_factory=dict)
    tls: tuple[Path, Path, Path] | None = None
    """CA, certificate and key; client certificates are then demanded."""
    flags: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        if not self.client_port:
            self.client_port, self.peer_port = free_ports(2)

    @property
    def endpoint(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.client_port}"

    @property
    def peer_url(self) -> str:
        return f"http://127.0.0.1:{self.peer_port}"

    def start(self, *, wait: bool = True) -> "EtcdServer":
        cluster = self.cluster or {self.name: self.peer_url}
        command = [
            *("setpriv", "--pdeathsig", "KILL", "etcd", "--name", self.name),
            *("--data-dir", str(self.folder / f"{self.name}.etcd")),
            *("--listen-client-urls", self.endpoint, "--advertise-client-urls", self.endpoint),
            *("--listen-peer-urls", self.peer_url, "--initial-advertise-peer-urls", self.peer_url),
            *("--initial-cluster", ",".join(f"{name}={url}" for name, url in cluster.items())),
            *("--logger", "zap", "--log-outputs", str(self.folder / f"{self.name}.log")),
            *self.flags,
        ]
        if self.tls:
            ca, cert, key = map(str, self.tls)
            command += ["--client-cert-auth", "--trusted-ca-file", ca, "--cert-file", cert, "--key-file", key]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if wait:
            self.wait_ready()
        return self

    def wait_ready(self) -> None:
        wait_until(self._listens if self.tls else self._healthy, 20)

    def kill(self) -> None:
        """kill -9."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGKILL)  # a test's data is worth no graceful end

    def pause(self) -> None:
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGCONT)

    def _end(self, number: int) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(10)
            self.process = None

    def _listens(self) -> bool:
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", self.client_port)) == 0

    def _healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.endpoint}/health", timeout=1) as answer:
                return b"true" in answer.read()
        except (urllib.error.URLError, OSError):
            return False


def cluster_of(count: int, folder: Path) -> list[EtcdServer]:
    """A started cluster of ``count`` members."""
    members = [EtcdServer(folder, name=f"m{index}") for index in range(count)]
    cluster = {member.name: member.peer_url for member in members}
    for member in members:
        member.cluster = cluster
        member.start(wait=False)
    for member in members:
        member.wait_ready()
    return members
