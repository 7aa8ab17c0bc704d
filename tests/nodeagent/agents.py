"""A real agent as a subprocess on loopback, and everything of it gone at the end. Shared by this room's tests."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from milpa_ray.api.pod import Pod, UnitStatus
from milpa_ray.ports import AgentAddress, AgentReport, DesiredPod, Token
from milpa_ray.userdata import UserData
from nodeagent.cleanup import clean_up
from nodeagent.client import GrpcAgent, GrpcDialer
from nodeagent.interruption import DISABLED_VARIABLE
from tests.oci import free_port
from tests.waiting import wait_until

OWNER = Token(1, 1)
UID = "pod-uid-1"


class RunningAgent:
    """An agent process with its state directory; it can be killed and started again. It asks no metadata service,
    unless ``environment`` says which."""

    def __init__(
        self,
        folder: Path,
        options: Sequence[str] = (),
        user_data: UserData = UserData("c", "b"),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._environment = os.environ | (environment or {DISABLED_VARIABLE: "true"})
        self.state = folder / "state"
        self.port = free_port()
        self._log = folder / "agent.out"
        (folder / "user-data").write_bytes(user_data.pack())
        self._argv = [
            *(sys.executable, "-m", "nodeagent", "--user-data", str(folder / "user-data")),
            *("--state-dir", str(self.state), "--listen", "127.0.0.1", "--port", str(self.port)),
            *("--restart-back-off-s", "0.2", "--heartbeat-s", "0.5", *options),
        ]
        self.process: subprocess.Popen[bytes]

    def start(self) -> None:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(self._argv, stdout=log, stderr=log, env=self._environment)
        (self.state / "port").unlink(missing_ok=True)
        wait_until(lambda: self.process.poll() is not None or (self.state / "port").exists(), 20.0, "the agent serves")
        assert self.process.poll() is None, self._log.read_text()[-2000:]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        if hasattr(self, "process"):
            self.kill()
        assert clean_up(self.state) == []

    def dial(self, dialer: GrpcDialer | None = None, identity: str = "any.milpa") -> GrpcAgent:
        return (dialer or GrpcDialer()).dial(AgentAddress("127.0.0.1", identity, self.port))


@contextmanager
def running_agent(
    folder: Path,
    *options: str,
    user_data: UserData = UserData("c", "b"),
    environment: Mapping[str, str] | None = None,
) -> Iterator[RunningAgent]:
    folder.mkdir(parents=True, exist_ok=True)
    agent = RunningAgent(folder, options, user_data, environment)
    try:
        agent.start()
        yield agent
    finally:
        agent.end()


def pod(*units: dict[str, Any], policy: str = "always", generation: int = 1, **spec: Any) -> DesiredPod:
    """A pod to dispatch."""
    metadata = {"name": "p", "uid": UID, "generation": generation}
    body = {"restartPolicy": policy, "units": units, **spec}
    return DesiredPod(Pod.model_validate({"metadata": metadata, "spec": body}))


def unit(name: str, image: str, script: str = "", **fields: Any) -> dict[str, Any]:
    """A unit that runs a shell script, or what ``fields`` and the image say."""
    command = {"command": ["sh", "-c", script]} if script else {}
    return {"name": name, "image": image, **command, **fields}


async def report_when(agent: GrpcAgent, wanted: Any, timeout_s: float = 20.0) -> AgentReport:
    """The first report with statuses for which ``wanted(report)`` is true."""

    seen: AgentReport | None = None
    try:
        async with asyncio.timeout(timeout_s):
            async for report in agent.watch():
                if report.units is not None:
                    seen = report
                    if wanted(report):
                        return report
    except TimeoutError:
        raise AssertionError(f"not within {timeout_s} s; last: {seen}") from None
    raise AssertionError("the watch ended")


def states(report: AgentReport) -> dict[str, str]:
    """``running``, ``exit 3``, or the waiting reason, by unit."""
    return {status.name: state_of(status) for status in (*(report.units or ()), *report.init_units)}


def state_of(status: UnitStatus) -> str:
    if status.state.running:
        return "running"
    if status.state.terminated:
        return f"exit {status.state.terminated.exit_code}"
    assert status.state.waiting is not None
    return status.state.waiting.reason


async def log_of(agent: GrpcAgent, name: str, **options: Any) -> str:
    return b"".join([data async for data in agent.logs(name, **options)]).decode()
