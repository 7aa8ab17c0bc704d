"""The controllers stop and come back with other settings: pods go on and are adopted; then the cloud misbehaves.

Comes last: the settings are not put back. They make faults cheap to wait for: a short boot time-out, a short memory of
failed launches, little room.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.drills import Cluster, Fleet, Object, all_units_run
from tests.waiting import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

ROOM = 8
"""Instances that the cloud gives besides the fleet's."""
MANY = 200
BOOT_TIMEOUT_S = 15
CAPACITY_MEMORY_S = 4


@pytest.fixture(scope="module")
def tight(cluster: Cluster, fleet: Fleet) -> Iterator[Cluster]:
    """Stopped, and up again with tight settings; only the fleet's pods exist."""
    others = set(cluster.items("pods")) - set(fleet.names)
    if others:
        cluster.delete(*sorted(others))
    began = time.monotonic()
    cluster.ok("milpa", "stop")
    assert cluster.milpactl("get", "pods").returncode == 1
    stopped = time.monotonic()
    assert fleet.processes <= cluster.unit_processes(), "pods go on without controllers"
    cluster.configure(limits={"bootTimeoutS": BOOT_TIMEOUT_S, "capacityMemoryS": CAPACITY_MEMORY_S})
    cloud = {"local": {**cluster.settings()["cloud"]["local"], "maxInstances": len(fleet.names) + ROOM}}
    cluster.configure(cloud=cloud)
    cluster.ok("milpa", "up")
    print(f"stop took {stopped - began:.1f} s, up {time.monotonic() - stopped:.1f} s")
    yield cluster
    cluster.fault("clear")


def bound(pod: Object) -> str:
    """The instance that the pod is bound to; empty while there is none."""
    return str(pod["status"].get("boundInstanceID", ""))


def nodes_of(cluster: Cluster, name: str) -> list[Object]:
    """All node records that were made for the pod, the oldest first."""
    found = [node for node in cluster.items("nodes").values() if node["status"].get("boundPodName") == name]
    return sorted(found, key=lambda node: str(node["metadata"]["creationTimestamp"]))


def test_pods_are_adopted(tight: Cluster, fleet: Fleet) -> None:
    fleet.assert_undisturbed()
    assert tight.milpactl("logs", fleet.names[3]).stdout == "started\n"
    print(f"after stop and up: new pod ran after {tight.run_new_pod('after-up'):.1f} s")
    tight.delete("after-up")


def test_faults_of_the_cloud_only_delay_pods(tight: Cluster, fleet: Fleet) -> None:
    """All at once, each on an instance type of its own, since each is mostly waiting."""
    tight.fault("set", "boot-hang", "--type", "t3.micro", "--times", "1")
    tight.fault("set", "no-capacity", "--type", "t3.small")
    tight.fault("set", "api-error", "--call", "launch", "--times", "2")
    tight.fault("set", "throttle", "--call", "list", "--times", "2")
    tight.fault("set", "lost-response", "--call", "launch", "--times", "1")
    began = time.monotonic()
    tight.create(
        tight.pod("hangs", instanceType="t3.micro"),
        tight.pod("full", instanceType="t3.small"),
        tight.pod("vanishes", instanceType="t3.nano"),
    )
    tight.when_running("vanishes")
    print(f"API errors, throttling and a lost answer: pod ran after {time.monotonic() - began:.1f} s")
    assert len(nodes_of(tight, "vanishes")) == 1

    lost = bound(tight.get_pod("vanishes"))
    tight.fault("set", "vanish", "--instance", lost)
    vanished = time.monotonic()
    tight.when_pod("vanishes", lambda pod: all_units_run(pod) and bound(pod) != lost, "on another instance")
    print(f"instance vanished: its pod ran elsewhere after {time.monotonic() - vanished:.1f} s")
    told = [node["status"].get("message", "") for node in nodes_of(tight, "vanishes")]
    assert "instance" in told[0], told

    refused = tight.when_pod("full", lambda pod: pod["status"].get("reason"), "told why it waits")
    assert refused["status"]["phase"] == "Waiting"
    assert "t3.small" in refused["status"]["message"]
    assert "InsufficientInstanceCapacity" in tight.ok("milpactl", "get", "pods", "-o", "wide")
    tight.fault("clear")
    cleared = time.monotonic()

    tight.when_running("hangs", timeout_s=BOOT_TIMEOUT_S + 25)
    print(f"boot that never finished: pod ran after {time.monotonic() - began:.1f} s, time-out {BOOT_TIMEOUT_S} s")
    hung, *_ = nodes_of(tight, "hangs")
    assert hung["status"]["reason"] == "BootTimeout"

    tight.when_running("full", timeout_s=45)
    print(f"capacity came back: pod ran {time.monotonic() - cleared:.1f} s after that")
    fleet.assert_undisturbed()
    tight.delete("hangs", "full", "vanishes")


def test_many_pods_created_by_a_killed_client_and_again(tight: Cluster, fleet: Fleet) -> None:
    names = [f"many-{number:03}" for number in range(MANY)]
    path = tight.file("many", [tight.pod(name, labels={"set": "many"}) for name in names])
    first = kill_in_mid_call(tight, path)
    again = tight.milpactl("create", "-f", str(path))
    assert again.returncode == 1
    created = re.findall(r"^pod/(\S+) created$", again.stdout, re.MULTILINE)
    existed = re.findall(r"^Error: pod/(\S+) exists already", again.stderr, re.MULTILINE)
    print(f"the killed call had created {len(existed)} of {MANY}")
    assert sorted([*created, *existed]) == names
    assert set(first) <= set(existed)
    pods = tight.items("pods", "-l", "set=many")
    assert sorted(pods) == names
    assert {name: pods[name]["metadata"]["uid"] for name in first} == first

    def settled() -> bool:
        pods.update(tight.items("pods", "-l", "set=many"))
        running = [pod for pod in pods.values() if all_units_run(pod)]
        reasons = Counter(pod["status"].get("reason") for pod in pods.values())
        return len(running) == ROOM and reasons["InsufficientInstanceCapacity"] == MANY - ROOM

    began = time.monotonic()
    try:
        wait_until(settled, 60)
    except TimeoutError:
        seen = Counter((pod["status"]["phase"], pod["status"].get("reason")) for pod in pods.values())
        raise AssertionError(f"{seen}\n{tight.logs()}") from None
    print(f"{ROOM} of {MANY} pods run and the others say why not after {time.monotonic() - began:.1f} s")
    nodes = Counter(
        node["status"]["boundPodName"]
        for node in tight.items("nodes").values()
        if node["status"]["phase"] in ("Created", "Available", "Claimed")
    )
    assert max(nodes.values()) == 1, "no pod has two instances"
    waiting = next(pod for pod in pods.values() if not all_units_run(pod))
    assert "t3.nano" in waiting["status"]["message"]
    fleet.assert_undisturbed()

    began = time.monotonic()
    tight.ok("milpactl", "delete", "pods", "-l", "set=many", "--timeout", "80s")
    print(f"{MANY} pods deleted in {time.monotonic() - began:.1f} s")
    assert not tight.items("pods", "-l", "set=many")
    wait_until(lambda: {process.instance for process in tight.unit_processes()} == fleet.instances, 20)
    fleet.assert_undisturbed()


def kill_in_mid_call(cluster: Cluster, path: Path) -> dict[str, str]:
    """Starts ``milpactl create``, kills it as soon as the first pods are there; the uids of what it has created."""
    place = {"MILPA_HOME": str(cluster.home.root), "MILPA_ENDPOINTS": f"127.0.0.1:{cluster.api_port}"}
    program = str(Path(sys.executable).with_name("milpactl"))
    watch = subprocess.Popen(
        [program, "get", "pods", "-l", "set=many", "-w", "-o", "name"], env=os.environ | place, stdout=subprocess.PIPE
    )
    try:
        assert watch.stdout is not None
        create = subprocess.Popen([program, "create", "-f", str(path)], env=os.environ | place, stdout=subprocess.PIPE)
        assert watch.stdout.readline().startswith(b"pod/many-")
        create.kill()
        create.communicate()
    finally:
        watch.send_signal(signal.SIGINT)
        watch.communicate()
    assert create.returncode == -signal.SIGKILL, "it was killed before it had its answer"
    return {name: pod["metadata"]["uid"] for name, pod in cluster.items("pods", "-l", "set=many").items()}
