"""Pods by hand: their life, their restart policies, and what is said when they cannot start."""

import base64
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.drills import SERVES, Cluster, Object, restarts_of, state_of
from tests.oci import free_port
from tests.waiting import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

FAILS = "echo tried; exit 7"
FAILS_ONCE = "[ -e /scratch/tried ] || { touch /scratch/tried; exit 7; }"
TICKS = 'trap "echo told to stop; exit 0" TERM; i=0; while :; do i=$((i+1)); echo tick $i; sleep 1 & wait $!; done'
SECRET = "it is a secret"


@pytest.fixture(scope="module")
def pods(cluster: Cluster) -> Cluster:
    """All pods of these tests, created in one call; each test waits for its own."""
    greet = {"name": "WORD", "valueFrom": {"secretKeyRef": {"name": "words", "key": "greeting"}}}
    no_secret = {"name": "WORD", "valueFrom": {"secretKeyRef": {"name": "nowords", "key": "greeting"}}}
    wrong = cluster.image.replace("box", "bix")
    dead = f"localhost:{free_port()}/box:latest"
    scratch, volumes = {"name": "scratch", "mountPath": "/scratch"}, [{"name": "scratch", "emptyDir": {}}]
    words = {"greeting": base64.b64encode(SECRET.encode()).decode()}
    cluster.create(
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "words"}, "data": words},
        cluster.pod("byhand", cluster.unit(TICKS), labels={"app": "byhand"}),
        cluster.pod("two", cluster.unit(name="left"), cluster.unit(name="right")),
        cluster.pod("updated", cluster.unit(name="left"), cluster.unit('echo "word $WORD"; ' + SERVES, "right")),
        cluster.pod("fails-always", cluster.unit(FAILS), restartPolicy="always"),
        cluster.pod(
            "fails-onfailure",
            cluster.unit(FAILS_ONCE, volumeMounts=[scratch]),
            restartPolicy="onFailure",
            volumes=volumes,
        ),
        cluster.pod("fails-never", cluster.unit(FAILS), cluster.unit(name="other"), restartPolicy="never"),
        cluster.pod("wrong-image", cluster.unit(image=wrong), cluster.unit(name="other")),
        cluster.pod("dead-registry", cluster.unit(image=dead)),
        cluster.pod("no-command", cluster.unit(command=["/bin/nosuch"]), restartPolicy="never"),
        cluster.pod("greets", cluster.unit('echo "word: $WORD"', env=[greet]), restartPolicy="never"),
        cluster.pod("no-secret", cluster.unit(env=[no_secret]), restartPolicy="never"),
    )
    return cluster


def message_of(pod: Object) -> str:
    return str(pod["status"].get("message", ""))


def phase_is(phase: str) -> Callable[[Object], bool]:
    return lambda pod: pod["status"]["phase"] == phase


def test_get_describe_follow_and_delete(pods: Cluster) -> None:
    pods.when_running("byhand")
    line = pods.ok("milpactl", "get", "pods", "-l", "app=byhand", "--no-headers").split()
    assert line[:4] == ["byhand", "1/1", "Running", "0"]
    described = pods.ok("milpactl", "describe", "pod", "byhand")
    assert "pod-running" in described
    assert "running since" in described
    follow = follow_log(pods, "byhand")
    assert follow.stdout is not None
    first = follow.stdout.readline()
    assert first.startswith("tick ")
    ticks = [int(follow.stdout.readline().split()[1]) for _ in range(3)]
    assert ticks == list(range(ticks[0], ticks[0] + 3))
    pods.delete("byhand")
    assert 'pods "byhand" not found' in pods.milpactl("get", "pod", "byhand").stderr
    last = follow.stdout.read().splitlines()[-1]
    assert (last, follow.wait(10)) == ("told to stop", 0), "following ends with the pod and leaves nothing out"
    wait_until(lambda: not living_node(pods, "byhand"), 20, "its instance is gone")


def follow_log(cluster: Cluster, *arguments: str) -> "subprocess.Popen[str]":
    """``milpactl logs -f``, running."""
    command = [str(Path(sys.executable).with_name("milpactl")), "logs", "-f", *arguments]
    place = {"MILPA_HOME": str(cluster.home.root), "MILPA_ENDPOINTS": f"127.0.0.1:{cluster.api_port}"}
    return subprocess.Popen(command, env=os.environ | place, stdout=subprocess.PIPE, text=True)


def living_node(cluster: Cluster, pod: str) -> bool:
    nodes = cluster.items("nodes").values()
    return any(n["status"].get("boundPodName") == pod and n["status"]["phase"] != "Terminated" for n in nodes)


def test_two_units_share_an_instance(pods: Cluster) -> None:
    pods.when_running("two")
    instance = pods.get_pod("two")["status"]["boundInstanceID"]
    containers = {process.container for process in pods.unit_processes() if process.instance == instance}
    assert containers == {"unit-left-1", "unit-right-1"}
    assert pods.ok("milpactl", "logs", "two", "-u", "right") == "started\n"


def test_only_the_changed_unit_of_an_updated_pod_restarts(pods: Cluster) -> None:
    pods.when_running("updated")
    instance = pods.get_pod("updated")["status"]["boundInstanceID"]

    def processes(unit: str) -> set[tuple[int, str]]:
        return {
            (p.pid, p.start) for p in pods.unit_processes() if p.instance == instance and f"-{unit}-" in p.container
        }

    before = processes("left"), processes("right")
    right = pods.unit('echo "word $WORD"; ' + SERVES, "right", env=[{"name": "WORD", "value": "new"}])
    path = pods.file("update", [pods.pod("updated", pods.unit(name="left"), right)])
    pods.ok("milpactl", "update", "-f", str(path))
    wait_until(lambda: "word new" in pods.milpactl("logs", "updated", "-u", "right").stdout, 20, pods.logs())
    assert processes("left") == before[0]
    assert not processes("right") & before[1]
    pods.when_running("updated")
    assert pods.get_pod("updated")["status"]["boundInstanceID"] == instance


def test_always_restarts_with_a_back_off_that_doubles(pods: Cluster) -> None:
    pod = pods.when_pod(
        "fails-always",
        lambda pod: restarts_of(pod) and "CrashLoopBackOff" in str(state_of(pod)),
        "restarted, backing off",
    )
    assert pod["status"]["phase"] == "Running"
    assert f"back-off {10 * 2 ** restarts_of(pod)} s" in state_of(pod)["waiting"]["reason"]
    assert "exit code 7" in state_of(pod)["waiting"]["reason"]
    assert pod["status"]["unitStatuses"][0]["lastState"]["terminated"]["exitCode"] == 7


def test_on_failure_restarts_until_success(pods: Cluster) -> None:
    pod = pods.when_pod("fails-onfailure", phase_is("Succeeded"), "Succeeded")
    assert restarts_of(pod) == 1
    assert state_of(pod)["terminated"]["exitCode"] == 0


def test_never_fails_with_the_exit_code_and_stops_the_others(pods: Cluster) -> None:
    pod = pods.when_pod("fails-never", phase_is("Failed"), "Failed")
    assert "unit main ended with exit code 7" in message_of(pod)
    assert state_of(pod)["terminated"]["exitCode"] == 7
    assert restarts_of(pod) == 0
    assert "terminated" in state_of(pod, "other")
    assert "UnitFailed: unit main ended with exit code 7" in pods.ok("milpactl", "get", "pods", "-o", "wide")


@pytest.mark.parametrize(
    ("name", "words"),
    [("wrong-image", ("bix:latest", "not found")), ("dead-registry", ("cannot be reached", "connection refused"))],
)
def test_an_image_that_does_not_come_fails_the_pod_after_three_attempts(
    pods: Cluster, name: str, words: tuple[str, ...]
) -> None:
    pod = pods.when_pod(name, phase_is("Failed"), "Failed", 60)
    assert pod["status"]["startFailures"] == 3
    assert pod["status"]["reason"] == "StartFailed"
    for shown in (
        message_of(pod),
        str(state_of(pod)),
        next(line for line in pods.ok("milpactl", "get", "pods", "-o", "wide").splitlines() if name in line),
        pods.ok("milpactl", "describe", "pod", name),
    ):
        for word in words:
            assert word in shown
    nodes = [n for n in pods.items("nodes").values() if n["status"].get("boundPodName") == name]
    assert len(nodes) <= 3, "one instance an attempt"


def test_a_command_that_is_not_in_the_image_is_told(pods: Cluster) -> None:
    pod = pods.when_pod("no-command", phase_is("Failed"), "Failed")
    assert "/bin/nosuch" in message_of(pod)
    assert "no such file" in message_of(pod)


def test_a_secret_comes_as_environment(pods: Cluster) -> None:
    pods.when_pod("greets", phase_is("Succeeded"), "Succeeded")
    assert pods.ok("milpactl", "logs", "greets") == f"word: {SECRET}\n"
    assert SECRET not in pods.ok("milpactl", "get", "secret", "words", "-o", "yaml")


def test_a_missing_secret_is_told(pods: Cluster) -> None:
    pod = pods.when_pod("no-secret", phase_is("Failed"), "Failed")
    assert "nowords" in message_of(pod)


def test_all_mistakes_of_a_manifest_are_told_and_nothing_is_created(cluster: Cluster) -> None:
    path = cluster.home.root / "mistakes.yml"
    path.write_text(f"""\
apiVersion: v1
kind: Pod
metadata: {{name: innocent}}
spec: {{units: [{{name: a, image: {cluster.image}}}]}}
---
apiVersion: v1
kind: Pod
metadata:
  name: mistaken
spec:
  restartPolicy: sometimes
  resources:
    memory: 12Xi
  units:
    - name: a
      image: {cluster.image}
      comand: [/bin/true]
""")
    done = cluster.milpactl("create", "-f", str(path))
    assert done.returncode == 1
    errors = done.stderr.splitlines()
    assert [error.split(":")[2].split(" ")[0] for error in errors] == ["11", "13", "17"]
    for error, words in zip(
        errors, [("restartPolicy", "sometimes", "onFailure"), ("memory", "12Xi"), ("comand", "'command'")], strict=True
    ):
        assert error.startswith(f"Error: {path}:")
        for word in words:
            assert word in error
    assert not {"innocent", "mistaken"} & set(cluster.items("pods"))


def test_an_interrupted_log_leaves_the_pod_alone(pods: Cluster) -> None:
    pods.when_running("two")
    before = pods.unit_processes()
    follow = follow_log(pods, "two", "-u", "left")
    assert follow.stdout is not None
    assert follow.stdout.readline() == "started\n"
    follow.send_signal(signal.SIGINT)
    assert follow.wait(10) == 130
    instance = pods.get_pod("two")["status"]["boundInstanceID"]
    assert {p for p in before if p.instance == instance} == {p for p in pods.unit_processes() if p.instance == instance}
