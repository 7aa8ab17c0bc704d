"""What all drills share: a Milpa driven by its commands, manifests, unit processes as the kernel shows them."""

import glob
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from milpa_ray.keys import SLOTS, slot_of
from tests.shards.installation import Milpa
from tests.waiting import wait_until

BACK_WITHIN_S = 10.0
"""``milpactl`` must work again within this time after anything of the controllers died."""
NEW_POD_WITHIN_S = 30.0
SERVES = 'trap "exit 0" TERM; echo started; sleep 100000 & wait'
"""A unit's script that runs until it is told to stop, and stops at once."""

Object = dict[str, Any]


@dataclass(frozen=True, order=True)
class UnitProcess:
    """A process of a unit, by what never changes while it lives. ``start`` is in clock ticks since boot."""

    instance: str
    container: str
    pid: int
    start: str


@dataclass
class Cluster(Milpa):
    """A ``Milpa`` with what drills need besides. ``image`` is the busybox image in its registry."""

    image: str = field(default="", init=False)

    # ------------------------------------------------------------ manifests

    def unit(self, script: str = SERVES, name: str = "main", **fields: Any) -> Object:
        return {"name": name, "image": self.image, "command": ["/bin/sh", "-c", script], **fields}

    def pod(self, name: str, *units: Object, labels: Mapping[str, str] | None = None, **spec: Any) -> Object:  # type: ignore[override]
        """A manifest; one serving unit by default."""
        metadata: Object = {"name": name} | ({"labels": dict(labels)} if labels else {})
        spec = {"units": list(units) or [self.unit()], **spec}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}

    def file(self, name: str, objects: Iterable[Object]) -> Path:
        """Writes a manifest of several documents (JSON is YAML)."""
        path = self.home.root / f"{name}.yml"
        path.write_text("\n---\n".join(json.dumps(item) for item in objects))
        return path

    def create(self, *objects: Object) -> None:
        path = self.file(f"create-{objects[0]['metadata']['name']}", objects)
        self.ok("milpactl", "create", "-f", str(path))

    def delete(self, *names: str) -> None:
        self.ok("milpactl", "delete", "pods", *names, "--timeout", "60s")

    def configure(self, **sections: Any) -> None:
        """Changes settings: ``sections`` are merged into those of ``server.yml``, one level deep."""
        settings = self.settings()
        for name, changes in sections.items():
            settings[name] = settings.get(name, {}) | changes
        self.home.server_yml.write_text(json.dumps(settings))

    def settings(self) -> Object:
        return dict(json.loads(self.home.server_yml.read_text()))

    # ------------------------------------------------------------ what is

    def items(self, kind: str, *options: str) -> dict[str, Object]:
        """Objects of a kind by name."""
        listed = json.loads(self.ok("milpactl", "get", kind, "-o", "json", *options))
        return {item["metadata"]["name"]: item for item in listed["items"]}

    def get_pod(self, name: str) -> Object:
        return Milpa.pod(self, name)

    def when_pod(
        self, name: str, is_so: Callable[[Object], Any], what: str, timeout_s: float = NEW_POD_WITHIN_S
    ) -> Object:
        """The pod once it is so; fails with its description and the logs."""
        last: list[Object] = []

        def look() -> bool:
            last[:] = [self.get_pod(name)]
            return bool(is_so(last[0]))

        try:
            wait_until(look, timeout_s)
        except TimeoutError:
            described = self.milpactl("describe", "pod", name).stdout
            raise AssertionError(f"{name}: not {what} within {timeout_s} s\n{described}\n{self.logs()}") from None
        return last[0]

    def when_running(self, *names: str, timeout_s: float = NEW_POD_WITHIN_S) -> None:
        """Waits until all units of the pods run."""
        last: dict[str, Object] = {}

        def look() -> bool:
            last.update(self.items("pods"))
            return all(name in last and all_units_run(last[name]) for name in names)

        try:
            wait_until(look, timeout_s)
        except TimeoutError:
            late = {name: last.get(name, {}).get("status") for name in names}
            late = {name: status for name, status in late.items() if not all_units_run(last.get(name, {}))}
            raise AssertionError(f"not running within {timeout_s} s: {late}\n{self.logs()}") from None

    def controller(self, name: str) -> Object:
        """A controller as ``milpactl dump`` shows it: ``pid``, ``ready``, ``state``; empty when there is no answer."""
        done = self.milpactl("dump")
        return dict(json.loads(done.stdout).get(name, {})) if done.returncode == 0 else {}

    def unit_processes(self) -> frozenset[UnitProcess]:
        """First processes of all units, from their control groups."""
        found = set()
        for hierarchy in ("", "pids/"):
            pattern = f"/sys/fs/cgroup/{hierarchy}milpa-{self.bridge}/*/*/unit-*/cgroup.procs"
            for path in glob.glob(pattern):
                instance, _, container = Path(path).parts[-4:-1]
                try:
                    pids = [int(line) for line in Path(path).read_text().split()]
                    found |= {UnitProcess(instance, container, pid, start_of(pid)) for pid in pids}
                except FileNotFoundError:
                    continue  # it is just ending
        return frozenset(found)

    def agent_pids(self) -> dict[str, int]:
        """PIDs of node agents on the host, by instance."""
        mark = f"{self.home.local}/instances/"
        found = {}
        for pid in pids():
            words = command_of(pid)
            if "nodeagent" in words:
                instance = next((word.removeprefix(mark) for word in words if word.startswith(mark)), "")
                if instance:
                    found[instance.split("/")[0]] = pid
        return found

    def hypervisor_pid(self) -> int:
        return int((self.home.local / "hypervisor.lock").read_text().split()[0])

    def etcd_pid(self) -> int:
        return int((self.home.run / "etcd.pid").read_text().split()[0])

    def fault(self, *arguments: str) -> None:
        """Scripts a fault of the local cloud."""
        command = [sys.executable, "-m", "cloud.local.faults", "--socket", str(self.home.run / "hypervisor.sock")]
        subprocess.run([*command, *arguments], check=True, capture_output=True, timeout=20)

    # ------------------------------------------------------------ recovery

    def when_milpactl_works(self, since: float, within_s: float = BACK_WITHIN_S) -> float:
        """Seconds from ``since`` (monotonic) until a read was answered."""
        wait_until(lambda: self.milpactl("get", "pods").returncode == 0, within_s, f"milpactl works\n{self.logs()}")
        took = time.monotonic() - since
        assert took < within_s, f"milpactl worked only after {took:.1f} s"
        return took

    def when_ready(self, name: str, not_pid: int = 0, timeout_s: float = 20.0) -> None:
        """Waits until the controller is ready, in another process than ``not_pid``."""

        def look() -> bool:
            found = self.controller(name)
            return bool(found.get("ready")) and found["pid"] != not_pid

        wait_until(look, timeout_s, f"{name} is ready\n{self.logs()}")

    def run_new_pod(self, name: str) -> float:
        """Creates a pod and waits until it runs; the seconds that took."""
        began = time.monotonic()
        self.create(self.pod(name))
        self.when_running(name)
        return time.monotonic() - began


@dataclass(frozen=True)
class Fleet:
    """Pods that run and must never notice anything."""

    cluster: Cluster
    names: tuple[str, ...]
    instances: frozenset[str]
    processes: frozenset[UnitProcess]

    def assert_undisturbed(self) -> None:
        """The very same processes run; the records say so, too."""
        now = {process for process in self.cluster.unit_processes() if process.instance in self.instances}
        assert now == self.processes
        pods = self.cluster.items("pods")
        for name in self.names:
            assert pods[name]["status"]["phase"] == "Running", pods[name]["status"]
            assert restarts_of(pods[name]) == 0
        assert {pods[name]["status"]["boundInstanceID"] for name in self.names} == self.instances


def all_units_run(pod: Object) -> bool:
    statuses = pod.get("status", {}).get("unitStatuses", ())
    return len(statuses) == len(pod.get("spec", {}).get("units", ())) > 0 and all(
        "running" in status["state"] for status in statuses
    )


def restarts_of(pod: Object) -> int:
    return sum(status.get("restartCount", 0) for status in pod["status"]["unitStatuses"])


def state_of(pod: Object, unit: str = "main") -> Object:
    """The unit's state: a dict with the one key waiting, running or terminated; empty if there is none yet."""
    statuses = pod["status"].get("unitStatuses", ())
    return next((dict(status["state"]) for status in statuses if status["name"] == unit), {})


def name_in_shard(number: int, prefix: str, shards: int = 2) -> str:
    """A pod name that the shard of that number serves while all are there."""
    size = SLOTS // shards
    return next(name for i in range(1000) if slot_of(name := f"{prefix}-{i}") // size == number)


def pids() -> list[int]:
    return [int(entry) for entry in os.listdir("/proc") if entry.isdecimal()]


def start_of(pid: int) -> str:
    """When a process started, in clock ticks since boot."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]


def command_of(pid: int) -> Sequence[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return ()


def kill(pid: int) -> float:
    """kill -9; the time of it (monotonic)."""
    os.kill(pid, signal.SIGKILL)
    return time.monotonic()
