"""``wait`` against a real server."""

import threading

from tests.cli.cluster import Cluster
from tests.cli.factories import running_pod, stored


def test_what_is_so_already(cluster: Cluster) -> None:
    cluster.put(running_pod("web"), running_pod("db"))
    ran = cluster.milpactl("wait", "pod", "web", "db", "--for", "phase=running")
    assert (ran.code, sorted(ran.out.splitlines())) == (0, ["pod/db phase=Running", "pod/web phase=Running"])
    assert cluster.milpactl("wait", "pod/gone", "--for=deleted").out == "pod/gone deleted\n"
    assert cluster.milpactl("wait", "pod/web", "--for=phase=Running", "--timeout=0").code == 0
    assert cluster.milpactl("wait", "pod/web", "--for=jsonpath={.status.phase}=Running").code == 0
    selected = cluster.milpactl("wait", "pods", "-l", "!owner", "--for=phase=Running")
    assert (selected.code, len(selected.out.splitlines())) == (0, 2)
    # A label that is mistyped in a script must not pass for success.
    missed = cluster.milpactl("wait", "pods", "-l", "app=nobody", "--for=phase=Running")
    assert (missed.code, missed.err) == (1, 'Error: no pods match "app=nobody"\n')
    assert cluster.milpactl("wait", "pods", "-l", "app=nobody", "--for=deleted").code == 0


def test_what_becomes_so(cluster: Cluster) -> None:
    cluster.put(stored("Pod", "web", metadata={"uid": "u"}), stored("ReplicaSet", "rs"))
    later = threading.Timer(0.6, lambda: cluster.put(running_pod("web")))
    later.start()
    ran = cluster.milpactl("wait", "pod/web", "--for=phase=Running", "--timeout", "10s")
    later.join()
    assert (ran.code, ran.out) == (0, "pod/web phase=Running\n")
    later = threading.Timer(0.6, lambda: cluster.put(stored("ReplicaSet", "rs", status={"availableReplicas": 3})))
    later.start()
    ran = cluster.milpactl("wait", "rs/rs", "--for=status.availableReplicas=3", "--timeout", "10s")
    later.join()
    assert (ran.code, ran.out) == (0, "replicaset/rs availableReplicas=3\n")


def test_what_is_not_so_in_time_is_said_with_what_it_is(cluster: Cluster) -> None:
    cluster.put(stored("Pod", "web", status={"reason": "NoFit", "message": "no type fits"}))
    ran = cluster.milpactl("wait", "pod", "web", "--for=phase=Running", "--timeout=200ms")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == (
        "Error: timed out after 200ms waiting for pod/web to have phase=Running; it is Waiting (no type fits)\n"
    )


def test_what_never_will_be_fails_at_once(cluster: Cluster) -> None:
    cluster.put(stored("Pod", "web", status={"phase": "Failed", "message": "exit code 3"}))
    ran = cluster.milpactl("wait", "pod", "web", "--for=phase=Running", "--timeout=1h")
    assert (ran.code, ran.err) == (1, "Error: pod/web is Failed (exit code 3) and will not become Running\n")
    ran = cluster.milpactl("wait", "pod", "x", "--for=phase=Running")
    assert (ran.code, ran.err) == (1, 'Error: pods "x" not found\n')


def test_what_is_deleted_meanwhile(cluster: Cluster) -> None:
    cluster.put(stored("Pod", "web"))
    later = threading.Timer(0.6, lambda: cluster.remove("Pod", "web"))
    later.start()
    ran = cluster.milpactl("wait", "pod", "web", "--for=phase=Running", "--timeout=10s")
    later.join()
    assert (ran.code, ran.err) == (1, "Error: pod/web was deleted before it had phase=Running\n")
