"""``delete`` against a real server. The controllers' part, removing what was asked to end, is played by the test."""

import threading

from tests.cli.cluster import Cluster
from tests.cli.factories import running_pod, stored
from tests.cli.running import Ran
from tests.waiting import wait_until


def _with_controller(cluster: Cluster, kind: str, names: list[str], *args: str) -> Ran:
    """Runs ``delete`` while the objects are removed once they are marked."""

    def finish() -> None:
        for name in names:
            wait_until(lambda name=name: "deletionTimestamp" in cluster.stored(kind, name)["metadata"])  # type: ignore[misc]
            cluster.remove(kind, name)

    controller = threading.Thread(target=finish)
    controller.start()
    try:
        return cluster.milpactl("delete", *args)
    finally:
        controller.join(timeout=15)


def test_waits_until_a_pod_is_gone(cluster: Cluster) -> None:
    cluster.put(running_pod("web"))
    ran = _with_controller(cluster, "Pod", ["web"], "pod", "web")
    assert (ran.code, ran.out) == (0, "pod/web deleted\n")
    assert cluster.names("Pod") == []


def test_several_by_label_and_all(cluster: Cluster) -> None:
    cluster.put(running_pod("a"), running_pod("b"), running_pod("c", labels={"app": "x"}))
    ran = _with_controller(cluster, "Pod", ["a", "b"], "pods", "-l", "app=web")
    assert (ran.code, sorted(ran.out.splitlines())) == (0, ["pod/a deleted", "pod/b deleted"])
    ran = _with_controller(cluster, "Pod", ["c"], "pods", "--all")
    assert (ran.code, ran.out) == (0, "pod/c deleted\n")
    ran = cluster.milpactl("delete", "pods", "--all")
    assert (ran.code, ran.err) == (0, "No resources found.\n")


def test_without_waiting(cluster: Cluster) -> None:
    cluster.put(running_pod("web"))
    for flag in ("--no-wait", "--wait=false"):
        ran = cluster.milpactl("delete", "pod/web", flag)
        assert (ran.code, ran.out) == (0, "pod/web deletion requested\n")
    assert cluster.milpactl("get", "pods", "--no-headers").out.split()[2] == "Deleting"


def test_a_time_out_says_that_the_deletion_goes_on(cluster: Cluster) -> None:
    cluster.put(running_pod("web"))
    ran = cluster.milpactl("delete", "pod", "web", "--timeout", "200ms")
    assert (ran.code, ran.out) == (1, "")
    assert "Waiting for pod/web to end (it is Running) ..." in ran.err
    assert "Error: pod/web is still there after 0.2 s; its deletion goes on" in ran.err


def test_missing_ones(cluster: Cluster) -> None:
    cluster.put(stored("Secret", "s"))
    ran = cluster.milpactl("delete", "secret", "x", "s")
    assert (ran.code, ran.out, ran.err) == (1, "secret/s deleted\n", 'Error: secrets "x" not found\n')
    ran = cluster.milpactl("delete", "secret", "x", "--ignore-not-found")
    assert (ran.code, ran.out, ran.err) == (0, "", "")


def test_by_manifest_of_which_only_the_names_count(cluster: Cluster) -> None:
    cluster.put(stored("Secret", "s"))
    ran = cluster.milpactl("delete", "-f", "-", stdin="kind: Secret\nmetadata: {name: s}\ndatum: {}\n")
    assert (ran.code, ran.out) == (0, "secret/s deleted\n")


def test_a_parent_and_its_children(cluster: Cluster) -> None:
    parent = stored("ReplicaSet", "rs", metadata={"uid": "rs-uid"})
    child = running_pod("rs-1", ownerKind="ReplicaSet", ownerName="rs", ownerUID="rs-uid")
    for flag, orphan in (("--cascade=false", True), ("--cascade", False)):
        cluster.put(parent, child)
        ran = cluster.milpactl("delete", flag, "--no-wait", "rs", "rs")
        assert ran.code == 0
        marked = cluster.stored("ReplicaSet", "rs")["metadata"]
        assert "deletionTimestamp" in marked
        assert ("orphan" in str(marked).lower()) is orphan


def test_many_of_a_kind_are_counted_unless_wanted_one_by_one(cluster: Cluster) -> None:
    def fill(number: int) -> None:
        cluster.put(*(stored("Secret", f"s{number:02}", metadata={"labels": {"a": "b"}}) for number in range(number)))

    fill(21)
    ran = cluster.milpactl("delete", "secrets", "--all")
    assert (ran.code, ran.out, ran.err) == (0, "21 secrets deleted\n", "")
    assert cluster.names("Secret") == []
    for flags, line in ((("-v",), "secret/s20 deleted"), (("-o", "name"), "secret/s20")):
        fill(21)
        ran = cluster.milpactl("delete", "secrets", "--all", *flags)
        lines = ran.out.splitlines()
        assert (ran.code, len(lines), max(lines)) == (0, 21, line)
    fill(20)  # few enough to be named
    assert len(cluster.milpactl("delete", "secrets", "--all").out.splitlines()) == 20


def test_many_that_do_not_end_are_counted_too(cluster: Cluster) -> None:
    cluster.put(*(running_pod(f"p{number:02}") for number in range(21)))
    ran = cluster.milpactl("delete", "pods", "-l", "app=web", "--no-wait")
    assert (ran.code, ran.out) == (0, "21 pods deletion requested\n")
    ran = cluster.milpactl("delete", "pods", "-l", "app=web", "--timeout", "0")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.count("is still there") == 20
    assert ran.err.endswith("Error: and 1 more are still there\n")


def test_what_is_refused_for_one_reason_is_said_once(cluster: Cluster) -> None:
    cluster.put(*(stored("Event", f"e{number:02}", status="x") for number in range(3)))
    ran = cluster.milpactl("delete", "events", "--all")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == "Error: event/e00 and 2 more events: events can't be deleted: events are written by Milpa\n"
    assert len(cluster.milpactl("delete", "events", "--all", "-v").err.splitlines()) == 3
    assert cluster.milpactl("delete", "event", "e00").err.startswith("Error: event/e00: events can't be deleted: ")


def test_a_node_counts_as_gone_once_its_instance_is(cluster: Cluster) -> None:
    cluster.put(stored("Node", "n1", status={"phase": "Terminated"}))
    ran = cluster.milpactl("delete", "node", "n1")
    assert (ran.code, ran.out) == (0, "node/n1 deleted\n")
