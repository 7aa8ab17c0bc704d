"""A whole Milpa, brought up and taken down by its own commands, with a pod that must not notice anything."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shards.installation import Installation
from tests.oci import build_busybox_image, running_registry
from tests.shards.installation import Milpa
from tests.waiting import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

BACK_WITHIN_S = 10.0
PAUSE_S = 15.0
POD = """
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  units:
    - name: main
      image: {image}
      command: [/bin/busybox, sh, -c, "echo started; exec /bin/busybox sleep 100000"]
"""


@pytest.fixture(scope="module")
def milpa() -> Iterator[Milpa]:
    """Up, with a pod ``first`` running; down at the end, with nothing left."""
    with tempfile.TemporaryDirectory(prefix="milpa-test-") as text, running_registry(Path(text) / "reg") as registry:
        folder = Path(text)
        registry.push(build_busybox_image(folder / "image"), "box:latest")
        found = Milpa.prepare(folder / "home", registry.port)
        try:
            found.ok("milpa", "up")
            create(found, "first")
            yield found
        finally:
            down = found.milpa("down")
        assert down.returncode == 0, down.stderr
        assert Installation(found.home).leftovers() == []
        assert not Path(f"/sys/class/net/{found.bridge}").exists()
        assert (found.home.data / "member").exists(), "data is kept unless asked otherwise"
        found.ok("milpa", "down", "--delete-data")
        assert not (found.home.data / "member").exists()


def create(milpa: Milpa, name: str) -> None:
    """Creates a pod and waits until its unit runs."""
    manifest = milpa.home.root / f"{name}.yml"
    manifest.write_text(POD.format(name=name, image=f"localhost:{milpa.registry_port}/box:latest"))
    milpa.ok("milpactl", "create", "-f", str(manifest))
    wait_until(lambda: "started" in milpa.milpactl("logs", name).stdout, 30, f"{name} runs\n{milpa.logs()}")


def runs_of(milpa: Milpa, name: str) -> int:
    """How often the pod's unit was started."""
    return milpa.milpactl("logs", name).stdout.count("started")


def test_all_parts_are_ready_and_up_again_changes_nothing(milpa: Milpa) -> None:
    before = milpa.status()
    assert set(before) == {"ray", "etcd", "local cloud", "coordinator", "shard-0", "shard-1", "api-127.0.0.1"}
    assert all(part["ok"] for part in before.values())
    assert milpa.milpa("up").stderr.endswith("Milpa is up already.\n")
    other = milpa.milpa("up", "--disable-tls", "--node-ip", "127.0.0.9")
    assert other.returncode == 0
    assert "--disable-tls is ignored: Milpa runs without it\n  --node-ip 127.0.0.9 is ignored" in other.stderr
    assert "To apply other flags: 'milpa stop', then 'milpa up' with them." in other.stderr
    assert {part["pid"] for part in milpa.status().values()} == {part["pid"] for part in before.values()}


def test_doctor_finds_no_fault(milpa: Milpa) -> None:
    done = milpa.milpa("doctor", "-o", "json")
    assert done.returncode == 0, done.stdout
    checks = {check["name"]: check for check in json.loads(done.stdout)}
    assert checks["server"]["detail"] == "running: ray, etcd, local cloud"


@pytest.mark.parametrize("victim", ["shard-0", "coordinator", "api-127.0.0.1"])
def test_killed_controller_is_back_soon_and_no_pod_notices(milpa: Milpa, victim: str) -> None:
    before = milpa.pod("first")
    pid = milpa.status()[victim]["pid"]
    os.kill(pid, signal.SIGKILL)
    killed = time.monotonic()
    wait_until(lambda: milpa.milpactl("get", "pods").returncode == 0, BACK_WITHIN_S, "milpactl works")
    wait_until(
        lambda: (part := milpa.status()[victim])["ok"] and part["pid"] != pid,
        BACK_WITHIN_S - (time.monotonic() - killed),
        f"{victim} is ready\n{milpa.logs()}",
    )
    create(milpa, f"after-{victim.split('.')[0]}")
    assert milpa.pod("first")["status"]["phase"] == "Running"
    assert milpa.pod("first")["status"]["boundNodeName"] == before["status"]["boundNodeName"]
    assert runs_of(milpa, "first") == 1


def test_stop_and_up_adopts_what_runs(milpa: Milpa) -> None:
    before = milpa.pod("first")
    milpa.ok("milpa", "stop")
    state = milpa.status()
    assert not state["ray"]["ok"]
    assert not state["etcd"]["ok"]
    assert state["local cloud"]["ok"]
    milpa.ok("milpa", "up")
    wait_until(lambda: milpa.pod("first")["status"]["phase"] == "Running", 10)
    assert milpa.pod("first")["status"]["boundNodeName"] == before["status"]["boundNodeName"]
    assert runs_of(milpa, "first") == 1
    create(milpa, "after-stop")


def test_up_mends_what_died_meanwhile(milpa: Milpa) -> None:
    installation = Installation.found(milpa.home)
    for process in installation.ray.processes():
        os.kill(process.pid, signal.SIGKILL)
    wait_until(lambda: not installation.ray.processes(), 5)
    milpa.ok("milpa", "up")
    assert all(part["ok"] for part in milpa.status().values())
    assert runs_of(milpa, "first") == 1


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["shard-0", "coordinator"])
def test_paused_controller_does_no_harm(milpa: Milpa, victim: str) -> None:
    pid = milpa.status()[victim]["pid"]
    os.kill(pid, signal.SIGSTOP)
    paused = time.monotonic()
    try:
        wait_until(lambda: milpa.milpactl("get", "pods").returncode == 0, BACK_WITHIN_S, "milpactl works")
        if victim != "coordinator":  # there is but one to launch instances
            create(milpa, f"while-{victim}-paused")
        wait_until(lambda: time.monotonic() - paused > PAUSE_S, PAUSE_S + 1, "the pause, longer than any lease")
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_until(lambda: milpa.status()[victim]["ok"], 20, f"{victim} is ready\n{milpa.logs()}")
    create(milpa, f"after-{victim}-paused")
    assert runs_of(milpa, "first") == 1


@pytest.mark.slow
def test_killed_etcd_is_back_and_no_pod_notices(milpa: Milpa) -> None:
    pid = int((milpa.home.run / "etcd.pid").read_text().split()[0])
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: milpa.milpactl("get", "pods").returncode == 0, BACK_WITHIN_S, "milpactl works")
    create(milpa, "after-etcd")
    assert runs_of(milpa, "first") == 1


@pytest.mark.slow
def test_server_in_the_foreground_mends_ray_and_stops_on_sigterm(milpa: Milpa) -> None:
    milpa.ok("milpa", "stop")
    installation = Installation.found(milpa.home)
    log = milpa.home.root / "server.log"
    environment = {**os.environ, "MILPA_HOME": str(milpa.home.root)}
    with log.open("wb") as output:
        program = Path(sys.executable).with_name("milpa")
        server = subprocess.Popen([program, "server"], env=environment, stdout=output, stderr=output)
    try:
        wait_until(lambda: b"\nup\n" in log.read_bytes() or server.poll() is not None, 60, "up")
        head = next(process for process in installation.ray.processes() if "gcs_server" in process.title)
        os.kill(head.pid, signal.SIGKILL)
        wait_until(lambda: head.pid not in {p.pid for p in installation.ray.processes()}, 10)
        wait_until(lambda: all(part["ok"] for part in milpa.status().values()), 60, log.read_text())
        assert runs_of(milpa, "first") == 1
    finally:
        server.terminate()
        server.wait(30)
    assert server.returncode == 0, log.read_text()
    assert not installation.ray.is_running()
    milpa.ok("milpa", "up")
