"""The local cloud behind its client, as the contract of the port asks, and how errors are translated."""

import json
from pathlib import Path

import pytest

from cloud.local.client import LocalCompute
from cloud.local.lifecycle import LocalCloud
from milpa_ray.errors import CloudThrottled, CloudUnavailable, NoCapacity
from tests.cloud.compute_contract import ComputeContract, launch_call
from tests.cloud.local.conftest import MakeCloud, client

pytestmark = pytest.mark.integration


class TestLocalCompute(ComputeContract):
    @pytest.fixture
    def offer(self) -> tuple[str, str]:
        return "t3.nano", "us-east-1a"


async def test_only_our_clusters_instances_are_listed(cloud: LocalCloud, compute: LocalCompute) -> None:
    (ours,) = await compute.launch(launch_call())
    (theirs,) = await compute.launch(launch_call(tags={"milpa-cluster": "other"}))
    assert ours.id in {instance.id for instance in await compute.list_instances()}
    assert theirs.id not in {instance.id for instance in await compute.list_instances()}
    async with client(cloud, "other") as other:
        assert [instance.id for instance in await other.list_instances()] == [theirs.id]
    await compute.terminate([theirs.id])


async def test_more_instances_than_there_is_room_for_are_refused(make_cloud: MakeCloud) -> None:
    small = make_cloud(max_instances=1)
    small.start()
    async with client(small) as compute:
        assert len(await compute.launch(launch_call(count=2))) == 1
        with pytest.raises(NoCapacity) as caught:
            await compute.launch(launch_call())
    assert caught.value.code == "InsufficientInstanceCapacity"


async def test_throttling_and_errors_are_told_apart(compute: LocalCompute) -> None:
    rules = [{"kind": "throttle", "times": 1}, {"kind": "api-error", "call": "launch", "times": 1}]
    await compute.set_faults(json.dumps({"add": rules}))
    with pytest.raises(CloudThrottled):
        await compute.list_instances()
    with pytest.raises(CloudUnavailable):
        await compute.launch(launch_call())
    await compute.launch(launch_call())


async def test_a_lost_response_is_found_again_by_the_same_token(compute: LocalCompute) -> None:
    await compute.set_faults('{"add": [{"kind": "lost-response", "call": "launch", "times": 1}]}')
    call = launch_call(count=2)
    with pytest.raises(CloudUnavailable):
        await compute.launch(call)
    listed = {instance.id for instance in await compute.list_instances() if instance.token == call.token}
    assert len(listed) == 2
    assert {instance.id for instance in await compute.launch(call)} == listed


async def test_without_a_daemon_the_cloud_is_unavailable(tmp_path: Path) -> None:
    compute = LocalCompute(tmp_path / "nobody.sock", "test", timeout_s=2.0)
    with pytest.raises(CloudUnavailable):
        await compute.list_instances()
    await compute.close()
