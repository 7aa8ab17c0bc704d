"""``get`` against a real server: tables, documents, selection, watching."""

import base64
import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import yaml

from tests.cli.cluster import Cluster
from tests.cli.factories import running_pod, stored
from tests.cli.running import start
from tests.waiting import wait_until


def test_nothing_there(cluster: Cluster) -> None:
    ran = cluster.milpactl("get", "pods")
    assert (ran.code, ran.out, ran.err) == (0, "", "No resources found.\n")
    assert json.loads(cluster.milpactl("get", "pods", "-o", "json").out)["items"] == []


def test_tables(cluster: Cluster) -> None:
    cluster.put(running_pod("web"), running_pod("db"), stored("Node", "n1", status={"phase": "Available"}))
    ran = cluster.milpactl("get", "po")
    assert ran.code == 0
    lines = [line.split() for line in ran.out.splitlines()]
    assert lines[0] == ["NAME", "UNITS", "PHASE", "RESTARTS", "NODE", "IP", "AGE"]
    assert [line[:6] for line in lines[1:]] == [
        ["db", "1/2", "Running", "3", "node-1", "10.0.0.2"],
        ["web", "1/2", "Running", "3", "node-1", "10.0.0.2"],
    ]
    assert "INSTANCE" in cluster.milpactl("get", "pods", "-owide").out
    assert "NAME" not in cluster.milpactl("get", "pods", "--no-headers").out
    both = cluster.milpactl("get", "pods,nodes").out.split("\n\n")
    assert [block.splitlines()[1].split()[0] for block in both] == ["pod/db", "node/n1"]
    assert cluster.milpactl("get", "all", "-o", "name").out == "pod/db\npod/web\nnode/n1\n"


def test_documents(cluster: Cluster) -> None:
    cluster.put(running_pod("web"), running_pod("db"))
    one = json.loads(cluster.milpactl("get", "--output=json", "pod", "web").out)
    assert (one["kind"], one["metadata"]["name"]) == ("Pod", "web")
    assert one["spec"]["restartPolicy"] == "always"
    assert yaml.safe_load(cluster.milpactl("get", "pod/web", "-oyaml").out) == one
    several = json.loads(cluster.milpactl("get", "pods", "-o", "json").out)
    assert several["kind"] == "List"
    assert [item["metadata"]["name"] for item in several["items"]] == ["db", "web"]
    assert cluster.milpactl("get", "pod/web", "pod/db", "-o", "name").out == "pod/db\npod/web\n"


def test_a_missing_name_is_an_error_and_the_others_are_shown(cluster: Cluster) -> None:
    cluster.put(running_pod("web"))
    ran = cluster.milpactl("get", "pods", "x")
    assert (ran.code, ran.out, ran.err) == (1, "", 'Error: pods "x" not found\n')
    ran = cluster.milpactl("get", "pods", "x", "web", "--no-headers")
    assert (ran.code, ran.out.split()[0], ran.err) == (1, "web", 'Error: pods "x" not found\n')
    assert cluster.milpactl("get", "pod", "x", "-o", "json").out == ""


def test_selection_and_order(cluster: Cluster) -> None:
    cluster.put(running_pod("web"), running_pod("db", labels={"app": "db"}), stored("Pod", "new"))
    assert cluster.milpactl("get", "pods", "-l", "app in (db, x)", "-o", "name").out == "pod/db\n"
    ran = cluster.milpactl("get", "pods", "-l", "app in (")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("Error: -l: label selector 'app in ('")
    by_phase = cluster.milpactl("get", "pods", "--sort-by", "{.status.phase}", "-o", "name").out
    assert by_phase == "pod/new\npod/db\npod/web\n"


def test_events_by_time(cluster: Cluster) -> None:
    for number, status in enumerate(["pod-created", "pod-running", "pod-deleted"]):
        cluster.put(
            stored(
                "Event",
                f"e{9 - number}",
                metadata={"creationTimestamp": f"2026-01-01T00:00:0{number}Z"},
                involvedObject={"kind": "Pod", "name": "alpine"},
                status=status,
            )
        )
    lines = cluster.milpactl("get", "ev", "--no-headers").out.splitlines()
    assert [line.split()[:4] for line in lines] == [
        ["e9", "Pod", "alpine", "pod-created"],
        ["e8", "Pod", "alpine", "pod-running"],
        ["e7", "Pod", "alpine", "pod-deleted"],
    ]


def test_secrets_never_show_their_values(cluster: Cluster) -> None:
    value = base64.b64encode(b"super-secret-password").decode()
    cluster.put(stored("Secret", "creds", data={"password": value}))
    for args in (("-o", "json"), ("-o", "yaml"), ("-o", "wide"), ()):
        ran = cluster.milpactl("get", "secret", "creds", *args)
        assert ran.code == 0
        assert value not in ran.out
    shown = json.loads(cluster.milpactl("get", "secret", "creds", "-o", "json").out)["data"]["password"]
    assert base64.b64decode(shown) == b"21 bytes"


class Watcher:
    """A running ``get --watch``."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process

    def line(self) -> list[str]:
        """The next line's words. A watch that prints nothing is ended by the test's time-out."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().split()


@contextmanager
def watching(cluster: Cluster, *args: str) -> Iterator[Watcher]:
    process = start(["get", *args, *cluster.flags])
    try:
        yield Watcher(process)
    finally:
        process.kill()
        process.communicate(timeout=10)


@pytest.mark.timeout(30)
def test_watch_prints_rows_as_changes_come(cluster: Cluster) -> None:
    cluster.put(running_pod("db"))
    with watching(cluster, "pods", "-w") as watcher:
        assert watcher.line()[0] == "NAME"
        assert watcher.line()[:3] == ["db", "1/2", "Running"]
        cluster.put(stored("Pod", "web", metadata={"uid": "u"}))
        assert watcher.line()[:3] == ["web", "0/0", "Waiting"]
        cluster.put(running_pod("web"))
        assert watcher.line()[:3] == ["web", "1/2", "Running"]
        cluster.remove("Pod", "db")
        assert watcher.line()[:3] == ["db", "1/2", "Deleted"]
        watcher.process.send_signal(signal.SIGINT)
        out, err = watcher.process.communicate(timeout=10)
        assert (watcher.process.returncode, out, err) == (130, "", "")


@pytest.mark.timeout(30)
def test_watch_of_one_object_as_names(cluster: Cluster) -> None:
    cluster.put(running_pod("db"), running_pod("web"))
    with watching(cluster, "pod", "web", "-w", "-o", "name") as watcher:
        assert watcher.line() == ["pod/web"]
        cluster.put(running_pod("db", labels={"new": "1"}), running_pod("web", labels={"new": "1"}))
        assert watcher.line() == ["pod/web"]


def test_watch_wants_one_kind_and_a_name_that_exists(cluster: Cluster) -> None:
    assert cluster.milpactl("get", "pods,nodes", "-w").code == 2
    ran = cluster.milpactl("get", "pod", "x", "-w")
    assert (ran.code, ran.err) == (1, 'Error: pods "x" not found\n')


def test_a_reader_that_goes_away_is_no_error_to_talk_about(cluster: Cluster) -> None:
    cluster.put(*(running_pod(f"pod-{number}") for number in range(300)))
    process = start(["get", "pods", "-o", "json", *cluster.flags])
    assert process.stdout is not None
    process.stdout.read(1)
    process.stdout.close()
    assert process.stderr is not None
    assert wait_until(lambda: process.poll() is not None)
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.returncode == 141
