"""``describe`` against a real server."""

from tests.cli.cluster import Cluster
from tests.cli.factories import running_pod, stored


def _event(name: str, pod: str, status: str, uid: str = "") -> dict[str, object]:
    about = {"kind": "Pod", "name": pod, "uid": uid}
    return stored("Event", name, involvedObject=about, status=status, source="pod-controller")


def test_an_object_with_its_own_events(cluster: Cluster) -> None:
    cluster.put(
        running_pod("web"),
        _event("e1", "web", "pod-created", "uid-web"),
        _event("e2", "other", "pod-failed"),
        _event("e3", "web", "pod-terminated", "uid-of-a-predecessor"),
    )
    ran = cluster.milpactl("describe", "pod", "web")
    assert ran.code == 0
    assert ran.out.startswith("Name:                  web\n")
    events = ran.out.partition("Events:\n")[2]
    assert "pod-created" in events
    assert "pod-failed" not in events
    assert "pod-terminated" not in events
    assert "Events:" not in cluster.milpactl("describe", "pod", "web", "--no-events").out


def test_several_and_missing_ones(cluster: Cluster) -> None:
    cluster.put(running_pod("web"), running_pod("db"))
    ran = cluster.milpactl("describe", "pods", "-l", "app=web")
    assert [line for line in ran.out.splitlines() if line.startswith("Name:")] == [
        "Name:                  db",
        "Name:                  web",
    ]
    ran = cluster.milpactl("describe", "pod", "x")
    assert (ran.code, ran.out, ran.err) == (1, "", 'Error: pods "x" not found\n')
