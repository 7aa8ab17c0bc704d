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


def test_a_pod_tells_what_its_node_was_launched_as(cluster: Cluster) -> None:
    pods = [
        stored(
            "Pod",
            f"p{number}",
            spec={"units": [{"name": "main", "image": "img"}]},
            status={"phase": "Running", "boundNodeName": name},
        )
        for number, name in enumerate(("n0", "n1", "n2", "n3", "gone"))
    ]
    nodes = [
        stored(
            "Node",
            f"n{number}",
            spec={"instanceType": "c5a.large", "spot": True, "placement": {"availabilityZone": f"us-west-2{zone}"}},
            status={"phase": "Claimed", "priceUSDHour": 0.0311},
        )
        for number, zone in enumerate("abcd")
    ]
    cluster.put(*pods, *nodes)
    said = "c5a.large in us-west-2b, spot, at $0.0311 per hour since its launch"
    for names in (("p1",), ("p0", "p1", "p2", "p3", "p4")):  # asked one by one, and all at once
        described = cluster.milpactl("describe", "pod", *names)
        assert described.code == 0, described.err
        lines = [line for line in described.out.splitlines() if line.startswith("Launched as:")]
        assert f"Launched as:           {said}" in lines
        assert len(lines) == min(len(names), 4)
    assert "Launched as" not in cluster.milpactl("describe", "pod", "p4").out
