"""A spot instance is taken back: its agent is told by the metadata service, and the pod moves before it is too late."""

import json
import time
from collections.abc import Iterator

import pytest

from tests.e2e.drills import Cluster, Object
from tests.waiting import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

NOTICE_S = 60
POD = "on-spot"
PARTS_WELL = 'trap "echo told to stop; exit 0" TERM; echo started; sleep 100000 & wait'


@pytest.fixture
def pod(cluster: Cluster) -> Iterator[Object]:
    """A spot pod that runs; afterwards it is gone."""
    cluster.create(cluster.pod(POD, cluster.unit(PARTS_WELL), spot={"policy": "always"}))
    cluster.when_running(POD)
    yield cluster.get_pod(POD)
    cluster.delete(POD)


def events_of(cluster: Cluster, name: str) -> list[str]:
    found = json.loads(cluster.ok("milpactl", "get", "events", "-o", "json"))["items"]
    return [event["status"] for event in found if event["involvedObject"]["name"] == name]


def test_an_interrupted_spot_pod_is_stopped_gracefully_and_goes_on_on_the_next_node(
    cluster: Cluster, pod: Object
) -> None:
    old_instance, old_node = pod["status"]["boundInstanceID"], pod["status"]["boundNodeName"]
    zone = cluster.items("nodes")[old_node]["spec"]["placement"]["availabilityZone"]
    log = cluster.home.local / "instances" / old_instance / "state" / "logs" / "main.log"
    with log.open() as said:  # stays readable when the instance is gone
        told = time.monotonic()
        cluster.fault("set", "spot-interruption", "--instance", old_instance, "--seconds", str(NOTICE_S))

        def next_node() -> Object | None:
            others = (node for name, node in cluster.items("nodes").items() if name != old_node)
            return next((node for node in others if node["status"].get("boundPodName") == POD), None)

        # The next node is made while the unit still runs.
        replacement = wait_until(next_node, 15, "a node beside the first")
        assert "told to stop" not in said.read()
        assert replacement["spec"]["spot"] is True
        assert replacement["spec"]["placement"]["availabilityZone"] != zone
        moved = cluster.when_pod(
            POD, lambda now: now["status"].get("boundInstanceID") not in ("", old_instance), "moved", NOTICE_S
        )
        cluster.when_running(POD)
        print(f"interrupted: ran again {time.monotonic() - told:.1f} s after the notice")
        said.seek(0)
        assert "told to stop" in said.read()
    assert moved["status"]["boundNodeName"] == replacement["metadata"]["name"]
    assert time.monotonic() - told < NOTICE_S
    runs_on = {process.instance for process in cluster.unit_processes()} & {
        old_instance,
        cluster.get_pod(POD)["status"]["boundInstanceID"],
    }
    assert runs_on == {cluster.get_pod(POD)["status"]["boundInstanceID"]}
    events = events_of(cluster, POD)
    assert events.count("pod-spot-interrupted") == 1
    assert events.count("pod-running") == 2
    assert "node-interrupted" in events_of(cluster, old_node)
    # The old instance is ended by us, not by the cloud at the end of the notice.
    left_s = NOTICE_S - (time.monotonic() - told)
    wait_until(lambda: _phase(cluster, old_node) == "Terminated", left_s - 2, "the old node's end")


def _phase(cluster: Cluster, node: str) -> str:
    return str(cluster.items("nodes").get(node, {}).get("status", {}).get("phase", "Terminated"))
