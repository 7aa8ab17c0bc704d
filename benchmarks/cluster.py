"""A whole Milpa for benchmarks: brought up exactly as ``milpa up`` does, on a hollow cloud instead of the local one.

Home, ports and certificates are its own, in a temporary folder; only the agents' port is fixed. All of it ends with
the context, also on Ctrl-C and SIGTERM.
"""

import contextlib
import json
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from milpa_ray.client import AsyncClient, Client
from milpa_ray.paths import Home
from milpa_ray.pki import CertificateAuthority, KeyPair
from milpa_ray.ports import AGENT_PORT, CONTROLLER_IDENTITY, AgentAddress, node_identity
from milpa_ray.settings import Settings
from milpa_ray.store.etcd_supervisor import ETCD_PID, SUPERVISOR_PID
from milpa_ray.store.process_id import ProcessId
from nodeagent.client import GrpcDialer
from nodeagent.hollow import HISTORY, STATS
from shards.installation import Installation
from shards.launch import statuses
from shards.local_cloud import hypervisor_socket

CLUSTER = "bench"
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 10.0
ASKED_HOST = "127.0.0.1"
"""Where the hollow agents are asked for their counts: no node's address."""
OUTSIDE = frozenset({"hollow", "client"})
"""Roles that are no part of Milpa's controllers."""


class BenchmarkError(Exception):
    """The benchmark cannot go on; fit for a user."""


def say(text: str) -> None:
    """Progress, on stderr."""
    print(text, file=sys.stderr, flush=True)


@dataclass
class HollowInstallation(Installation):
    """An installation whose cloud is a hollow one, started and ended by ``hollow_cluster``. That is all it changes."""

    def _start_cloud(self, settings: Settings, undo: list[Callable[[], object]]) -> str:
        return f"hollow cloud serves at {hypervisor_socket(self.home)}"


@dataclass
class Cluster:
    """A running one."""

    installation: HollowInstallation
    hollow: "subprocess.Popen[bytes]"
    shards: int

    @property
    def home(self) -> Home:
        return self.installation.home

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.installation.settings.controllers.api_port}"

    def client(self, **options: Any) -> Client:
        return Client([self.endpoint], cert_dir=self.home.certs, **options)

    def aio_client(self, **options: Any) -> AsyncClient:
        return AsyncClient([self.endpoint], cert_dir=self.home.certs, **options)

    def pids(self, actors: dict[str, int]) -> dict[str, list[int]]:
        """Process ids by role. ``actors`` are the controllers' by name."""
        found: dict[str, list[int]] = {}
        for process in (ProcessId.load(self.home.run / name) for name in (ETCD_PID, SUPERVISOR_PID)):
            if process is not None:
                found.setdefault("etcd", []).append(process.pid)
        for name, pid in sorted(actors.items()):
            found[role_of(name)] = [pid]
        ours = set(actors.values())
        for ray in self.installation.ray.processes():
            if ray.pid not in ours:
                role = next((name for name in ("gcs_server", "raylet") if name in ray.title), "ray, other")
                found.setdefault(role, []).append(ray.pid)
        return {**found, "hollow": [self.hollow.pid]}

    def actors(self) -> dict[str, int]:
        """Pid of each controller, by name. Needs a connected driver (``installation.ray.connected``)."""
        return {status.name: status.pid for status in statuses() if status.pid}

    async def hollow_stats(self) -> dict[str, Any]:
        """What the hollow agents have counted: ``starts``, ``repeated`` starts, ``calls`` and more."""
        found: dict[str, Any] = json.loads(await self._ask_hollow(STATS))
        return found

    async def hollow_history(self) -> list[dict[str, Any]]:
        """What each hollow agent has run and when, as ``HollowAgents.history`` tells it."""
        return [json.loads(line) for line in (await self._ask_hollow(HISTORY)).splitlines()]

    async def _ask_hollow(self, what: str) -> bytes:
        certs = self.home.certs
        authority = CertificateAuthority(KeyPair((certs / "ca.crt").read_bytes(), (certs / "ca.key").read_bytes()))
        pair = authority.issue([CONTROLLER_IDENTITY], server=False, client=True)
        dialer = GrpcDialer(authority.pair.cert, pair.cert, pair.key)
        agent = dialer.dial(AgentAddress(ASKED_HOST, node_identity("any")))
        try:
            return b"".join([chunk async for chunk in agent.logs(what)])
        finally:
            await agent.close()


def role_of(actor: str) -> str:
    """``api-127.0.0.1`` is ``api``; all others keep their name."""
    return "api" if actor.startswith("api-") else actor


@contextlib.contextmanager
def hollow_cluster(shards: int, nodes: int, limits: Mapping[str, float] | None = None) -> Iterator[Cluster]:
    """Brings it up with ``shards`` shards and room for ``nodes`` nodes, and takes it down again. ``limits`` are those
    of ``server.yml`` that are not to have their defaults.

    Raises:
        BenchmarkError: the hollow cloud does not start. MilpaError: something else does not.
    """
    _interrupt_on_sigterm()
    root = Path(tempfile.mkdtemp(prefix="milpa-bench-"))
    installation = HollowInstallation(Home(root))
    hollow: subprocess.Popen[bytes] | None = None
    try:
        _write_settings(installation.home, shards, limits or {})
        hollow = _start_hollow(installation.home, nodes)
        installation.up(lambda text: say(f"  {text}"))
        yield Cluster(installation, hollow, shards)
    finally:
        try:
            installation.stop()
        finally:
            if hollow is not None:
                _end(hollow)
            shutil.rmtree(root, ignore_errors=True)


def _write_settings(home: Home, shards: int, limits: Mapping[str, float]) -> None:
    home.etc.mkdir(parents=True)
    home.run.mkdir(mode=0o700)
    home.certs.mkdir()
    home.log.mkdir()
    settings = {
        "clusterName": CLUSTER,
        "cloud": {"local": {}},
        "controllers": {"apiHost": "127.0.0.1", "apiPort": _free_port(), "shards": shards},
        "limits": dict(limits),
    }
    home.server_yml.write_text(json.dumps(settings))  # JSON is YAML


def _start_hollow(home: Home, nodes: int) -> "subprocess.Popen[bytes]":
    """Makes the cluster's CA and a certificate that is good for every node, before anything is measured."""
    authority = CertificateAuthority.create(CLUSTER)
    pair = authority.issue(["*.node.milpa", "*.boot.milpa"], server=True, client=False)
    for folder, name, data in (
        (home.certs, "ca.crt", authority.pair.cert),
        (home.certs, "ca.key", authority.pair.key),
        (home.run, "hollow.crt", pair.cert),
        (home.run, "hollow.key", pair.key),
    ):
        (folder / name).write_bytes(data)
    if not _is_free(AGENT_PORT):
        raise BenchmarkError(f"port {AGENT_PORT} (the agents') is in use; does another benchmark run?")
    ready = hypervisor_socket(home)
    command = [sys.executable, "-m", "benchmarks.hollow_cloud", "--socket", str(ready), "--nodes", str(nodes)]
    command += ["--tls", *map(str, (home.certs / "ca.crt", home.run / "hollow.crt", home.run / "hollow.key"))]
    log = home.log / "hollow.log"
    with log.open("wb") as output:
        # A session of its own: Ctrl-C is for us alone, and it ends last.
        process = subprocess.Popen(
            command, stdout=output, stderr=output, cwd=Path(__file__).parents[1], start_new_session=True
        )
    deadline = time.monotonic() + START_TIMEOUT_S
    while not ready.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            _end(process)
            raise BenchmarkError(f"the hollow cloud did not start: {log.read_text()[-500:].strip()}")
        time.sleep(0.05)
    return process


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _interrupt_on_sigterm() -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", port))
        except OSError:
            return False
        return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
