"""The text of ``describe``."""

from typing import Any

import pytest

from cli.output.describe import BODIES, description
from milpa_ray.api import KINDS
from tests.cli.factories import CREATED, NOW, running_pod, stored

POD = """\
Name:                  web
Kind:                  Pod
UID:                   uid-web
Labels:                app=web
Created:               2026-01-01T11:55:00Z (5m ago)
Phase:                 Running (since 5m)
Node:                  node-1
Instance:              i-1
Addresses:             10.0.0.2 (PrivateIP)
Restart policy:        always
Resources:
  CPU:                 2
  Dedicated CPU:       yes
Units:
  http:
    Image:             img:1
    Command:           httpd '-f x'
    Ports:             80/TCP
    Environment:       A=1
                       B=<key user of secret/creds>
    State:             running since 2026-01-01T11:55:00Z (5m ago)
    Restarts:          0
  side:
    Image:             img:2
    State:             waiting: back-off 40 s
    Last state:        ended, exit code 7, 2026-01-01T11:55:00Z (5m ago)
    Restarts:          3
"""


def test_a_pod() -> None:
    assert description(running_pod(), None, NOW) == POD


def test_events_follow() -> None:
    event = stored("Event", "e", status="pod-running", source="pod-controller", message="runs")
    text = description(running_pod(), [event], NOW)
    assert text == POD + (
        "Events:\n  AGE   STATUS        SOURCE           MESSAGE\n  5m    pod-running   pod-controller   runs\n"
    )
    assert description(running_pod(), [], NOW).endswith("Events:                <none>\n")


def test_every_kind_has_a_description() -> None:
    assert set(BODIES) == {kind.name for kind in KINDS}


@pytest.mark.parametrize("kind", sorted(BODIES))
def test_an_object_without_anything_is_described_all_the_same(kind: str) -> None:
    assert "Name:                  x\n" in description({"kind": kind, "metadata": {"name": "x"}}, [], NOW)


@pytest.mark.parametrize(
    ("state", "text"),
    [
        ({"terminated": {"exitCode": None, "reason": "lost"}}, "ended, exit code unknown (lost)"),
        ({"terminated": {"exitCode": 0}}, "ended, exit code 0"),
        ({"waiting": {"reason": "no such image", "startFailure": True}}, "cannot be started: no such image"),
        ({"running": {}}, "running"),
        ({}, "waiting"),
    ],
)
def test_unit_states(state: dict[str, Any], text: str) -> None:
    pod = stored(
        "Pod",
        "p",
        spec={"units": [{"name": "u", "image": "i"}]},
        status={"unitStatuses": [{"name": "u", "state": state}]},
    )
    assert f"    State:             {text}\n" in description(pod, None, NOW)


def test_the_ports_of_a_service_are_named_where_they_have_a_name() -> None:
    ports = [{"port": 80, "targetPort": 8080, "name": "http"}]
    assert "Ports:                 80/TCP to 8080 (http)\n" in description(
        stored("Service", "s", spec={"ports": ports}), None, NOW
    )
    assert "Ports:                 53/UDP to 53\n" in description(
        stored("Service", "s", spec={"ports": [{"port": 53, "protocol": "UDP"}]}), None, NOW
    )


def test_why_a_pod_waits_is_said() -> None:
    pod = stored("Pod", "p", status={"reason": "NoInstanceType", "message": "largest memory is 24 TiB\x1b[0m"})
    text = description(pod, None, NOW)
    assert "Reason:                NoInstanceType\n" in text
    assert "Message:               largest memory is 24 TiB\\x1b[0m\n" in text


def test_a_secret_shows_lengths_only() -> None:
    text = description(stored("Secret", "s", data={"user": "c29tZS11c2VybmFtZQ=="}), None, NOW)
    assert "  user:                13 bytes\n" in text
    assert "c29t" not in text


def test_a_deployment_and_what_owns_a_replicaset() -> None:
    template = {"metadata": {"labels": {"app": "w"}}, "spec": {"units": [{"name": "u", "image": "img:3"}]}}
    text = description(stored("Deployment", "d", spec={"replicas": 4, "template": template}), None, NOW)
    assert "Replicas:              4 desired, 0 current, 0 updated, 0 available, 0 unavailable\n" in text
    assert "  Unit u:              img:3\n" in text
    owned = stored(
        "ReplicaSet", "r", metadata={"ownerKind": "Deployment", "ownerName": "d", "deletionTimestamp": CREATED}
    )
    text = description(owned, None, NOW)
    assert "Created by:            deployment/d\n" in text
    assert "Deletion asked:        2026-01-01T11:55:00Z (5m ago)\n" in text


def test_when_the_cloud_takes_a_node_back_and_how_large_its_volume_is_are_said() -> None:
    status = {"interruptionAt": "2024-05-01T12:02:00.000000Z", "volumeGiB": 60}
    text = description(stored("Node", "n", status=status), None, NOW)
    assert "Taken back at:         2024-05-01T12:02:00Z\n" in text
    assert "Root volume:           60 GiB\n" in text
    assert "Taken back" not in description(stored("Node", "n"), None, NOW)
