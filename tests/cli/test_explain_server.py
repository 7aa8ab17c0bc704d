"""``explain`` for the pods of a server: by its region and defaults, and by what is full now."""

import json

from cloud.catalog import load_catalog
from milpa_ray.api.pod import ResourceSpec
from milpa_ray.errors import CapacityScope
from milpa_ray.planner.choose import Offers
from milpa_ray.planner.shard import plan_shard
from milpa_ray.ports import LaunchCall
from tests.cli.cluster import Cluster
from tests.cli.explaining import cells, run
from tests.cli.factories import CREATED, stored
from tests.planner.factories import make_case, make_pod, make_snapshot, written


def test_a_waiting_pod_and_a_running_one(cluster: Cluster) -> None:
    why = "no instance type fits: largest memory in us-west-2 is 24576 GiB (u7in-24tb.224xlarge), 40960 GiB was asked"
    cluster.put(
        stored(
            "Pod",
            "huge",
            spec={"resources": {"memory": "40Ti"}, "units": [{"name": "main", "image": "img"}]},
            status={"reason": "NoInstanceTypeFits", "message": why},
        ),
        stored(
            "Pod",
            "web",
            spec={"resources": {"cpu": "2", "dedicatedCPU": True}, "units": [{"name": "main", "image": "img"}]},
            status={"phase": "Running", "lastPhaseChange": CREATED, "boundNodeName": "n1"},
        ),
        stored(
            "Node",
            "n1",
            spec={"instanceType": "c5a.large", "placement": {"availabilityZone": "us-west-2b"}},
            status={"phase": "Claimed", "priceUSDHour": 0.077, "boundPodName": "web"},
        ),
    )
    ran = run("pod", "huge", *cluster.flags)
    assert ran.code == 1
    assert ran.err.startswith("Error: pod/huge: no instance type fits: largest memory in us-west-2 is ")
    assert cells(ran, "Now:")[0] == f"Waiting (NoInstanceTypeFits: {why})"
    ran = run("po/web", *cluster.flags)
    assert (ran.code, ran.err) == (0, "")
    assert cells(ran, "Now:") == ["Running on c5a.large in us-west-2b, on demand, at $0.0770 per hour since its launch"]
    assert cells(ran, "Chosen:")[0].startswith("c6a.large")
    assert "rices of us-west-2," in run("po/web", *cluster.flags, env={"MILPA_REGION": "eu-west-1"}).out
    ran = run("pod", "nobody", "web", *cluster.flags)
    assert (ran.code, ran.out, ran.err) == (1, "", 'Error: pods "nobody" not found\n')


def test_a_pod_that_nothing_fits_says_what_binds_wherever_it_is_shown(cluster: Cluster) -> None:
    """From the planner's own pass to what users see: table, description, event and explanation agree."""
    pod = make_pod(resources=ResourceSpec(cpu="1000"))
    (plan,) = plan_shard(make_snapshot(make_case(pod), offers=Offers(load_catalog("us-west-2"))))
    waiting = written(plan)["web"]
    assert waiting is not None
    event = {"involvedObject": {"kind": "Pod", "name": "web", "uid": "u1"}, "source": "shard-0"}
    told = [stored("Event", n.status, **event, status=n.status, message=n.message) for n in plan.notices]
    cluster.put(json.loads(waiting.to_json()), *told)
    why = "no instance type fits: most CPU in us-west-2 is 896 (u7i-12tb.224xlarge), 1000 was asked"
    assert cells(cluster.milpactl("get", "pods", "-o", "wide"), "web")[-1] == f"NoInstanceTypeFits: {why}"
    described = cluster.milpactl("describe", "pod", "web")
    assert cells(described, "Reason:") == ["NoInstanceTypeFits"]
    assert cells(described, "Message:") == [why]
    (line,) = [line.split("   ") for line in described.out.splitlines() if "pod-unschedulable" in line]
    assert line[-1] == why
    assert run("pod", "web", *cluster.flags).err == f"Error: pod/web: {why}\n"


def test_what_is_full_now_is_not_chosen(cluster: Cluster) -> None:
    cluster.put(
        stored(
            "ReplicaSet",
            "web",
            spec={
                "replicas": 2,
                "template": {"spec": {"instanceType": "c6a.large", "units": [{"name": "main", "image": "img"}]}},
            },
        )
    )
    assert run("rs/web", *cluster.flags).code == 0
    cluster.fill(LaunchCall("t", 1, "c6a.large", "us-west-2a"), CapacityScope.FAMILY)
    ran = run("rs", "web", *cluster.flags)
    assert ran.code == 1
    assert ran.err == (
        "Error: replicaset/web: the cloud had no c6a.large in any zone a moment ago; trying again shortly\n"
    )
    assert "the cloud had none a moment ago" in ran.out
    elsewhere = run("rs/web", "--region", "us-east-1", *cluster.flags)
    assert elsewhere.code == 0
