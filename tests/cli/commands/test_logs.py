"""``logs`` against a real server, whose agents are the test's."""

import signal

import pytest

from tests.cli.cluster import Cluster, LogAgent
from tests.cli.factories import running_pod, stored
from tests.cli.running import start
from tests.waiting import wait_until

LINES = b"".join(b"line %d\n" % number for number in range(20))


def _pod_with_agent(cluster: Cluster, agent: LogAgent) -> None:
    pod = running_pod("web")
    pod["spec"]["units"] = pod["spec"]["units"][:1]
    address = [{"type": "PrivateIP", "address": "10.9.9.9"}]
    status = {"phase": "Claimed", "podUID": "uid-web", "addresses": address, "identity": "node"}
    cluster.put(pod, stored("Node", "node-1", status=status))
    cluster.agents.by_host["10.9.9.9"] = agent


def test_the_last_lines(cluster: Cluster) -> None:
    agent = LogAgent(LINES)
    _pod_with_agent(cluster, agent)
    ran = cluster.milpactl("logs", "web")
    assert (ran.code, ran.out.splitlines()) == (0, [f"line {number}" for number in range(10, 20)])
    assert cluster.milpactl("logs", "pod/web", "-u", "http", "--lines=2").out == "line 18\nline 19\n"
    assert cluster.milpactl("logs", "web", "--limit-bytes=500").out == LINES.decode()
    assert cluster.milpactl("logs", "web", "--lines", "0", "--limit-bytes", "5").out == "e 19\n"
    assert cluster.milpactl("logs", "node-1").code == 0
    assert agent.asked == [
        ("http", 10, 0, False),
        ("http", 2, 0, False),
        ("http", 0, 500, False),
        ("http", 0, 5, False),
        ("", 10, 0, False),
    ]


@pytest.mark.timeout(30)
def test_following_ends_with_the_unit(cluster: Cluster) -> None:
    agent = LogAgent(b"one\n", ended=False)
    _pod_with_agent(cluster, agent)
    process = start(["logs", "-f", "web", *cluster.flags])
    assert process.stdout is not None
    assert process.stdout.readline() == "one\n"
    agent.log += b"half a li"
    assert process.stdout.read(9) == "half a li"
    agent.log += b"ne\n"
    agent.ended = True
    out, err = process.communicate(timeout=10)
    assert (process.returncode, out, err) == (0, "ne\n", "")


@pytest.mark.timeout(30)
def test_interrupting_is_quiet(cluster: Cluster) -> None:
    _pod_with_agent(cluster, LogAgent(b"one\n", ended=False))
    process = start(["logs", "-f", "web", *cluster.flags])
    assert process.stdout is not None
    assert process.stdout.readline() == "one\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=10)
    assert (process.returncode, out, err) == (130, "", "")


@pytest.mark.timeout(30)
def test_a_reader_that_goes_away_is_no_error_to_talk_about(cluster: Cluster) -> None:
    agent = LogAgent(b"one\n", ended=False)
    _pod_with_agent(cluster, agent)
    process = start(["logs", "-f", "web", *cluster.flags])
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == "one\n"
    process.stdout.close()
    agent.log += b"two\n"
    assert wait_until(lambda: process.poll() is not None)
    assert (process.returncode, process.stderr.read()) == (141, "")
    process.stderr.close()


def test_the_saved_log_of_what_is_gone(cluster: Cluster) -> None:
    parent = {"kind": "Pod", "name": "old", "uid": "u"}
    cluster.put(stored("LogFile", "old.http", parentObject=parent, content="the end\n"))
    assert cluster.milpactl("logs", "old").out == "the end\n"
    ran = cluster.milpactl("logs", "never")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith("Error: ")
    assert "never" in ran.err


def test_the_log_of_a_unit_that_printed_nothing(cluster: Cluster) -> None:
    pod = stored("Pod", "quiet", spec={"units": [{"name": "u", "image": "i"}]}, status={"phase": "Succeeded"})
    cluster.put(pod)
    assert cluster.milpactl("logs", "quiet").code == 1
    cluster.put(stored("LogFile", "quiet.u", parentObject={"kind": "Pod", "name": "quiet"}))
    ran = cluster.milpactl("logs", "quiet")
    assert (ran.code, ran.out, ran.err) == (0, "", "")


def test_several_units_need_a_name(cluster: Cluster) -> None:
    cluster.put(running_pod("web"))
    ran = cluster.milpactl("logs", "web")
    assert ran.code == 1
    assert "-u: http, side" in ran.err
