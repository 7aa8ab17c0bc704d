"""The table of every kind."""

import time
from typing import Any

import pytest

from cli.output.tables import COLUMNS, header, rows
from cli.output.text import table
from milpa_ray.api import KINDS
from tests.cli.factories import NOW, running_pod, stored


def _lines(*objects: dict[str, Any], wide: bool = False) -> list[list[str]]:
    found = rows(objects, NOW, wide=wide)
    assert all(len(line) == len(header(objects[0]["kind"], wide=wide)) for line in found)
    return found


def test_every_kind_has_a_table() -> None:
    assert set(COLUMNS) == {kind.name for kind in KINDS}


@pytest.mark.parametrize("kind", sorted(COLUMNS))
def test_an_object_without_anything_is_shown_all_the_same(kind: str) -> None:
    bare = {"kind": kind, "metadata": {"name": "x"}}
    assert _lines(bare, wide=True)[0][0] == "x"


def test_pods() -> None:
    assert header("Pod", wide=False) == ["NAME", "UNITS", "PHASE", "RESTARTS", "NODE", "IP", "AGE"]
    assert _lines(running_pod()) == [["web", "1/2", "Running", "3", "node-1", "10.0.0.2", "5m"]]
    waiting = stored("Pod", "new", spec={"units": [{"name": "u", "image": "i"}]}, status={"reason": "NoFit"})
    assert _lines(waiting, wide=True) == [
        ["new", "0/1", "Waiting", "0", "<none>", "<none>", "5m", "<none>", "<none>", "NoFit"]
    ]


def _unit_states(**reasons: str) -> list[dict[str, Any]]:
    return [{"name": name, "state": {"waiting": {"reason": reason}}} for name, reason in reasons.items()]


@pytest.mark.parametrize(
    ("inits", "units", "reason"),
    [
        ({}, {"main": "CrashLoopBackOff: back-off 20 s"}, "CrashLoopBackOff: back-off 20 s"),
        ({}, {"main": "PullingImage"}, "PullingImage"),
        ({}, {"http": "PullingImage", "side": "CrashLoopBackOff"}, "http: PullingImage; side: CrashLoopBackOff"),
        ({"init": "PullingImage"}, {"main": "PodInitializing"}, "init: PullingImage"),
        ({"init": ""}, {"main": "waiting for init unit init"}, "main: waiting for init unit init"),
        ({}, {"main": ""}, "<none>"),
    ],
)
def test_why_units_do_not_run_is_said_where_the_pod_says_nothing(
    inits: dict[str, str], units: dict[str, str], reason: str
) -> None:
    states = {"unitStatuses": _unit_states(**units), "initUnitStatuses": _unit_states(**inits)}
    assert _lines(stored("Pod", "p", status={"phase": "Running", **states}), wide=True)[0][-1] == reason
    told = stored("Pod", "p", status={"phase": "Running", "reason": "UnitFailed", **states})
    assert _lines(told, wide=True)[0][-1] == "UnitFailed"


def test_what_is_being_deleted_says_so() -> None:
    assert _lines(running_pod(deletionTimestamp="2026-01-01T11:59:00Z"))[0][2] == "Deleting"


def test_nodes() -> None:
    node = stored(
        "Node",
        "n1",
        spec={"instanceType": "t3.nano", "placement": {"availabilityZone": "us-east-1a"}, "spot": True},
        status={"phase": "Claimed", "boundPodName": "web", "instanceID": "i-1", "priceUSDHour": 0.0052},
    )
    line = _lines(node, wide=True)[0]
    assert line[:7] == ["n1", "Claimed", "t3.nano", "us-east-1a", "web", "i-1", "<none>"]
    assert line[8:10] == ["yes", "$0.0052"]


def test_services_replicasets_deployments() -> None:
    service = stored(
        "Service",
        "s",
        spec={
            "type": "LoadBalancer",
            "ports": [{"port": 80}, {"port": 53, "protocol": "UDP"}],
            "selector": {
                "matchLabels": {"app": "web"},
                "matchExpressions": [
                    {"key": "env", "operator": "In", "values": ["dev", "qa"]},
                    {"key": "old", "operator": "DoesNotExist"},
                    {"key": "new", "operator": "Exists"},
                ],
            },
        },
        status={"loadBalancer": {"dnsName": "lb.local"}},
    )
    assert _lines(service, wide=True) == [
        ["s", "LoadBalancer", "80/TCP,53/UDP", "lb.local", "5m", "app=web,env in (dev, qa),!old,new"]
    ]
    assert _lines(stored("ReplicaSet", "r", spec={"replicas": 3}, status={"replicas": 2})) == [
        ["r", "3", "2", "0", "5m"]
    ]
    deployment = stored("Deployment", "d", status={"phase": "available", "replicas": 1, "updatedReplicas": 1})
    assert _lines(deployment) == [["d", "available", "1", "1", "1", "0", "5m"]]


def test_secrets_show_lengths_only() -> None:
    secret = stored("Secret", "s", data={"user": "c29tZS11c2VybmFtZQ=="})
    assert _lines(secret, wide=True) == [["s", "1", "5m", "user (13 bytes)"]]


def test_events_logs_endpoints() -> None:
    event = stored(
        "Event",
        "e1",
        involvedObject={"kind": "Pod", "name": "mypod"},
        status="pod-running",
        source="pod-controller",
        message="mypod running on node\nn1",
    )
    assert _lines(event) == [["e1", "Pod", "mypod", "pod-running", "pod-controller", "mypod running on node n1"]]
    log = stored("LogFile", "l", parentObject={"kind": "Pod", "name": "web"}, content="añb")
    assert _lines(log) == [["l", "pod/web", "4", "5m"]]
    addresses = [{"ip": f"10.0.0.{i}"} for i in range(5)]
    endpoints = stored("Endpoints", "ep", subsets=[{"addresses": addresses, "ports": [{"port": 80}]}])
    assert _lines(endpoints)[0][1] == "10.0.0.0:80,10.0.0.1:80,10.0.0.2:80 + 2 more"


def test_prefix() -> None:
    assert rows([running_pod()], NOW, wide=False, prefix=True)[0][0] == "pod/web"


def test_ten_thousand_pods_take_a_fraction_of_a_second() -> None:
    pods = [running_pod()] * 10_000
    began = time.process_time()
    text = table([header("Pod", wide=False), *rows(pods, NOW, wide=False)])
    assert time.process_time() - began < 1.0
    assert text.count("\n") == 10_001
