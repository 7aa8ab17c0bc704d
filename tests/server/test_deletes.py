"""Deletes: wishes for pods and nodes, the key itself for the rest, and never another object than the one meant."""

from milpa_ray.api import Endpoints, Node, Pod, PodPhase, ReplicaSet, Secret
from milpa_ray.api.meta import ObjectMeta
from milpa_ray.client import Outcome, Ref
from milpa_ray.client.calls import make_pod
from milpa_ray.keys import slot_of
from milpa_ray.server.objects import ORPHAN
from milpa_ray.store.port import Put, Txn
from tests.server.serving import Served


async def put(served: Served, key: str, value: bytes) -> None:
    await served.store.commit(Txn(ops=(Put(key, value),)))


async def test_a_pod_gets_the_wish_and_its_key_stays(served: Served) -> None:
    (created,) = await served.client.create(make_pod("web", "i"))
    (result,) = await served.client.delete("pods", "web")
    assert (result.kind, result.name, result.outcome, result.uid) == ("Pod", "web", Outcome.DELETED, created.uid)
    pod = await served.client.get(Pod, "web")
    assert pod.metadata.deletion_timestamp is not None
    assert pod.status.phase is PodPhase.WAITING
    (again,) = await served.client.delete("po", "web")
    assert again.outcome is Outcome.DELETED
    assert (await served.client.get(Pod, "web")).metadata.deletion_timestamp == pod.metadata.deletion_timestamp


async def test_only_the_object_meant(served: Served) -> None:
    (created,) = await served.client.create(make_pod("web", "i"))
    results = await served.client.delete_refs(
        [Ref("Pod", "none"), Ref("Pod", "web", "another"), Ref("cat", "x"), Ref("Pod", "web", created.uid)]
    )
    assert [result.outcome for result in results] == [
        Outcome.NOT_FOUND,
        Outcome.NOT_FOUND,
        Outcome.INVALID,
        Outcome.DELETED,
    ]
    assert "its uid is" in results[1].message


async def test_a_node_is_wished_terminated(served: Served) -> None:
    key = served.keys.node(slot_of("n1"), "n1")
    await put(served, key, Node(metadata=ObjectMeta(name="n1", uid="u", generation=1)).to_json())
    for _ in range(2):
        (result,) = await served.client.delete("node", "n1")
        assert result.outcome is Outcome.DELETED
        node = await served.client.get(Node, "n1")
        assert (node.spec.terminate, node.metadata.generation) == (True, 2)


async def test_a_secret_is_gone_at_once_and_what_milpa_makes_is_refused(served: Served) -> None:
    await served.client.create(Secret(metadata=ObjectMeta(name="s"), data={"a": "YQ=="}))
    await put(served, served.keys.other("Endpoints", "e"), Endpoints(metadata=ObjectMeta(name="e")).to_json())
    assert [r.outcome for r in await served.client.delete("secrets", ["s"])] == [Outcome.DELETED]
    assert await served.client.list(Secret) == []
    (refused,) = await served.client.delete("endpoints", "e")
    assert refused.outcome is Outcome.INVALID
    assert "create a Service" in refused.message


async def test_a_replicaset_waits_for_its_children_or_lets_them_go(served: Served) -> None:
    names = ("empty", "full", "orphaning")
    for name in names:
        parent = ReplicaSet(metadata=ObjectMeta(name=name, uid=f"uid-{name}"))
        await put(served, served.keys.other("ReplicaSet", name), parent.to_json())
    for name in names[1:]:
        child = make_pod(f"{name}-1", "i")
        child = child.model_copy(update={"metadata": ObjectMeta(name=child.name, owner_uid=f"uid-{name}")})
        await put(served, served.keys.pod(child.name), child.to_json())
    # Its uid in another field makes no child.
    mentions = make_pod("mentions", "i", env={"PARENT": "uid-empty"})
    await put(served, served.keys.pod("mentions"), mentions.to_json())

    (gone,) = await served.client.delete("rs", "empty")
    (waits,) = await served.client.delete("rs", "full")
    (lets_go,) = await served.client.delete("rs", "orphaning", cascade=False)
    assert {gone.outcome, waits.outcome, lets_go.outcome} == {Outcome.DELETED}
    left = {item.name: item for item in await served.client.list(ReplicaSet)}
    assert set(left) == {"full", "orphaning"}
    assert all(item.metadata.deletion_timestamp for item in left.values())
    assert left["full"].metadata.annotations == {}
    assert left["orphaning"].metadata.annotations == {ORPHAN: "true"}


async def test_many_at_once(served: Served) -> None:
    names = [f"p{number}" for number in range(300)]
    await served.client.create([make_pod(name, "i") for name in names])
    results = await served.client.delete(Pod, names)
    assert [result.name for result in results] == names
    assert {result.outcome for result in results} == {Outcome.DELETED}
    assert all(pod.metadata.deletion_timestamp for pod in await served.client.list(Pod))
