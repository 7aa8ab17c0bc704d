"""The metadata service as instances see it, and the notice that a scripted fault makes it give."""

import http.client
import json
import subprocess
import sys
from datetime import UTC, datetime

import pytest

from cloud.local.client import LocalCompute
from cloud.local.lifecycle import LocalCloud
from cloud.local.metadata import MAX_TOKEN_S, MetadataServer
from cloud.local.records import InstanceRecord
from milpa_ray.ports import Instance, InstanceState
from nodeagent.imds import InstanceMetadata
from tests.cloud.compute_contract import launch_call
from tests.cloud.local.test_fleet import launched, record_of
from tests.waiting import eventually

ACTION = "meta-data/spot/instance-action"
ASK = """
import sys
from nodeagent.imds import DEFAULT_ENDPOINT, InstanceMetadata
found = InstanceMetadata(DEFAULT_ENDPOINT).read(sys.argv[1])
print("nothing" if found is None else found.decode(), end="")
"""


def asked_inside(cloud: LocalCloud, instance: Instance, path: str) -> str:
    """What the service tells a process in the instance's network namespace."""
    pid = record_of(cloud, instance.id)["pid"]
    command = ["nsenter", "--net", "--target", str(pid), sys.executable, "-c", ASK, path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def record(**changes: object) -> InstanceRecord:
    facts = {"id": "i-1", "token": "t", "launch_index": 0, "instance_type": "t3.nano", "zone": "z", "spot": True}
    network = {"private_ip": "127.0.0.1", "private_dns": "d", "public_ip": "", "public_dns": ""}
    return InstanceRecord(**facts | network | {"launched_at": 0.0, "tags": {}} | changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("seconds", "code"), [("", 400), ("0", 400), ("x", 400), (str(MAX_TOKEN_S + 1), 400), ("60", 200)]
)
def test_nothing_is_told_without_a_token(seconds: str, code: int) -> None:
    server = MetadataServer()
    server.serve({"127.0.0.1": record()}.get)
    try:
        for token in ("", "1.2", "99999999999.abc", "é.é"):
            link = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
            link.request("GET", "/latest/meta-data/instance-id", headers={"X-aws-ec2-metadata-token": token})
            assert link.getresponse().status == 401
            link.close()
        link = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
        link.request("PUT", "/latest/api/token", headers={"X-aws-ec2-metadata-token-ttl-seconds": seconds})
        assert link.getresponse().status == code
        link.close()
    finally:
        server.close()


def test_it_knows_only_living_instances_and_what_is_so() -> None:
    server, known = MetadataServer(), {"127.0.0.1": record()}
    server.serve(known.get)
    try:
        metadata = InstanceMetadata(f"http://127.0.0.1:{server.port}")
        assert metadata.read("meta-data/instance-life-cycle") == b"spot"
        assert metadata.read(ACTION) is None
        assert metadata.read("meta-data/../api/token") is None
        assert metadata.read("dynamic/instance-identity") is None
        known["127.0.0.1"].interruption_at = 1_700_000_000.0
        notice = json.loads(metadata.read(ACTION) or b"")
        assert notice == {"action": "terminate", "time": "2023-11-14T22:13:20Z"}
        known.clear()
        assert metadata.read("meta-data/instance-id") is None
    finally:
        server.close()


@pytest.mark.integration
async def test_an_interruption_is_told_to_the_spot_instance_that_it_is_for(
    cloud: LocalCloud, compute: LocalCompute
) -> None:
    (spot,) = await launched(compute, launch_call(spot=True))
    (other,) = await launched(compute, launch_call(spot=True))
    (steady,) = await launched(compute, launch_call())
    assert asked_inside(cloud, spot, "meta-data/instance-id") == spot.id
    assert asked_inside(cloud, steady, "meta-data/instance-life-cycle") == "on-demand"
    assert asked_inside(cloud, spot, ACTION) == "nothing"

    before = datetime.now(UTC)
    rules = [{"kind": "spot-interruption", "instance": i.id, "seconds": 3} for i in (spot, steady)]
    assert json.loads(await compute.set_faults(json.dumps({"add": rules}))) == []
    notice = json.loads(asked_inside(cloud, spot, ACTION))
    assert -1 <= (datetime.fromisoformat(notice["time"]) - before).total_seconds() <= 4
    assert asked_inside(cloud, other, ACTION) == "nothing"

    async def gone() -> bool:
        states = {i.id: i.state for i in await compute.list_instances()}
        assert states[steady.id] == states[other.id] == InstanceState.RUNNING
        return states[spot.id] is InstanceState.TERMINATED

    await eventually(gone, 15.0, "the end of the interrupted instance")
    assert datetime.now(UTC).timestamp() - before.timestamp() >= 3
    assert "SpotInstanceTermination" in record_of(cloud, spot.id)["reason"]


@pytest.mark.integration
async def test_a_notice_outlives_the_hypervisor(cloud: LocalCloud, compute: LocalCompute) -> None:
    (spot,) = await launched(compute, launch_call(spot=True))
    await compute.set_faults(json.dumps({"add": [{"kind": "spot-interruption", "seconds": 6}]}))
    cloud.stop()
    cloud.start()
    assert json.loads(asked_inside(cloud, spot, ACTION))["action"] == "terminate"

    async def gone() -> bool:
        return {i.id: i.state for i in await compute.list_instances()}[spot.id] is InstanceState.TERMINATED

    await eventually(gone, 20.0, "the end of the interrupted instance")
    assert "SpotInstanceTermination" in record_of(cloud, spot.id)["reason"]
