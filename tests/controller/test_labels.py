"""Instances get their pod's name and labels in few calls, late but surely, and never a tag that is ours."""

import asyncio
from collections.abc import AsyncIterator, Mapping

import pytest

from cloud.aws.tags import check_tags
from milpa_ray.api.node import Node, NodePhase
from milpa_ray.api.pod import PodPhase
from milpa_ray.clock import SystemClock
from milpa_ray.controller.deps import CoordinatorDeps
from milpa_ray.controller.labels import Labels
from milpa_ray.controller.leadership import Leadership
from milpa_ray.errors import CloudThrottled, MilpaError
from milpa_ray.keys import Keys
from milpa_ray.limits import Limits
from milpa_ray.planner.garbage import UUID_TAG
from milpa_ray.planner.labels import instance_tags
from milpa_ray.planner.membership import ShardMap
from milpa_ray.planner.snapshot import Versioned
from milpa_ray.ports import Instance, InstanceState
from milpa_ray.store.memory import MemoryStore
from milpa_ray.store.port import Put, Txn
from tests.controller.test_batches import Recorder
from tests.planner.factories import make_node, make_pod
from tests.waiting import eventually


class Cloud:
    """Instances by id with their tags; checks them as EC2 does."""

    def __init__(self) -> None:
        self.tags: dict[str, dict[str, str]] = {}
        self.calls = 0
        self.error: MilpaError | None = None

    async def label(self, tags: Mapping[str, Mapping[str, str]]) -> None:
        self.calls += 1
        if self.error is not None:
            raise self.error
        for instance_id, wanted in tags.items():
            check_tags(instance_id, wanted)
        for instance_id, wanted in tags.items():
            self.tags[instance_id].update(wanted)

    def listed(self) -> dict[str, Instance]:
        return {id_: Instance(id_, InstanceState.RUNNING, tags=dict(tags)) for id_, tags in self.tags.items()}


class Rig:
    def __init__(self) -> None:
        self.store, self.keys, self.cloud, self.recorder = MemoryStore(), Keys("c"), Cloud(), Recorder()
        deps = CoordinatorDeps(
            self.store,
            self.keys,
            SystemClock(),
            None,  # type: ignore[arg-type]
            Limits(),
            lease=None,  # type: ignore[arg-type]
            compute=self.cloud,  # type: ignore[arg-type]
            recorder=self.recorder,
        )
        self.labels = Labels(deps, Leadership(self.store, self.keys, "me"))
        self.nodes: list[Versioned[Node]] = []

    async def claim(self, name: str, labels: Mapping[str, str]) -> None:
        """A node that holds the pod ``name``."""
        pod = make_pod(PodPhase.RUNNING, name=name, uid=f"uid-{name}", labels=dict(labels))
        node = make_node(NodePhase.CLAIMED, f"node-{name}")
        status = {"instance_id": f"i-{name}", "bound_pod_name": name, "pod_uid": pod.uid}
        node = node.model_copy(update={"status": node.status.model_copy(update=status)})
        await self.store.commit(Txn(ops=(Put(self.keys.pod(name), pod.to_json()),)))
        self.nodes.append(Versioned(self.keys.node(1, node.name), node, 1))
        self.cloud.tags[f"i-{name}"] = {"milpa-cluster": "c"}

    def poll(self) -> None:
        self.labels.note(self.nodes, self.cloud.listed())


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    rig = Rig()
    await rig.store.commit(Txn(ops=(Put(rig.keys.map, ShardMap(coordinator="me").to_json()),)))
    running = asyncio.create_task(rig.labels.run())
    yield rig
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


def test_no_label_changes_what_the_garbage_collector_goes_by() -> None:
    pod = make_pod(labels={UUID_TAG: "another", "milpa-pod": "x", "app": "web"})
    tags = instance_tags(make_node(NodePhase.CLAIMED, "n1"), pod)
    assert UUID_TAG not in tags
    assert (tags["app"], tags["milpa-pod"], tags["milpa-node"]) == ("web", "web", "n1")


async def test_claimed_instances_get_name_node_and_labels(rig: Rig) -> None:
    await rig.claim("web", {"app": "writer", "env": "qa"})
    await rig.claim("db", {"Name": "my own"})
    rig.poll()
    await eventually(lambda: "milpa-pod" in rig.cloud.tags["i-db"])
    assert rig.cloud.tags["i-web"] == {
        "milpa-cluster": "c",
        "Name": "web",
        "app": "writer",
        "env": "qa",
        "milpa-node": "node-web",
        "milpa-pod": "web",
    }
    assert rig.cloud.tags["i-db"]["Name"] == "my own"
    assert rig.cloud.calls == 1


async def test_what_is_tagged_is_left_alone(rig: Rig) -> None:
    await rig.claim("web", {})
    stale = rig.cloud.listed()
    rig.poll()
    await eventually(lambda: rig.cloud.calls == 1)
    rig.labels.note(rig.nodes, stale)  # a list that lags behind
    rig.poll()
    await rig.claim("db", {})
    rig.poll()
    await eventually(lambda: "milpa-pod" in rig.cloud.tags["i-db"])
    assert rig.cloud.calls == 2


async def test_a_failed_call_is_made_again_after_the_next_list(rig: Rig) -> None:
    await rig.claim("web", {})
    rig.cloud.error = CloudThrottled("RequestLimitExceeded")
    rig.poll()
    await eventually(lambda: rig.cloud.calls == 1)
    rig.cloud.error = None
    rig.poll()
    await eventually(lambda: "milpa-pod" in rig.cloud.tags["i-web"])


async def test_labels_that_the_cloud_refuses_are_told_and_hurt_no_other_pod(rig: Rig) -> None:
    await rig.claim("bad", {"aws:x": "y"})
    await rig.claim("good", {"app": "web"})
    rig.poll()
    await eventually(lambda: all("milpa-pod" in tags for tags in rig.cloud.tags.values()))
    assert rig.cloud.tags["i-good"]["app"] == "web"
    assert rig.cloud.tags["i-bad"]["Name"] == "bad"
    ((name, status, message),) = rig.recorder.told
    assert (name, status) == ("bad", "pod-labels-not-copied")
    assert "aws:" in message


async def test_a_pod_of_the_same_name_lends_no_labels(rig: Rig) -> None:
    await rig.claim("web", {"app": "old"})
    successor = make_pod(PodPhase.WAITING, name="web", uid="another", labels={"app": "new"})
    await rig.store.commit(Txn(ops=(Put(rig.keys.pod("web"), successor.to_json()),)))
    rig.poll()
    await eventually(lambda: "milpa-pod" in rig.cloud.tags["i-web"])
    assert "app" not in rig.cloud.tags["i-web"]
