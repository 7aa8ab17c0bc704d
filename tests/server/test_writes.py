"""Writes: idempotent creates, compare-and-swap updates, and big calls that starve nobody."""

import asyncio
import json
import uuid

import pytest

from milpa_ray.api import Node, Pod, PodPhase, Secret, Service
from milpa_ray.api.meta import ObjectMeta
from milpa_ray.api.network import LabelSelector, ServiceSpec
from milpa_ray.api.pod import UnitPort
from milpa_ray.client import Outcome
from milpa_ray.client.calls import make_pod
from milpa_ray.errors import Invalid, StoreUnavailable
from milpa_ray.proto import milpa_pb2 as pb
from milpa_ray.store.memory import MemoryStore
from milpa_ray.store.port import Compare, Put, Txn, TxnResult
from tests.server.serving import Served, serving
from tests.waiting import eventually


def pod(name: str, **kwargs: object) -> Pod:
    return make_pod(name, "registry.local/web:1", ["serve"], **kwargs)  # type: ignore[arg-type]


async def test_a_created_pod_has_what_the_server_gives(served: Served) -> None:
    forged = pod("web", labels={"app": "web"}).model_copy(
        update={
            "metadata": ObjectMeta(
                name="web", labels={"app": "web"}, uid="forged", generation=7, owner_kind="ReplicaSet", owner_uid="x"
            ),
            "status": Pod().status.model_copy(update={"phase": PodPhase.RUNNING, "bound_node_name": "n"}),
        }
    )
    (result,) = await served.client.create(forged)
    assert (result.kind, result.name, result.outcome) == ("Pod", "web", Outcome.CREATED)
    found = await served.client.get(Pod, "web")
    assert found.uid == result.uid != "forged"
    assert found.metadata.generation == 1
    assert found.metadata.creation_timestamp is not None
    assert (found.metadata.owner_kind, found.metadata.owner_uid) == ("", "")
    assert (found.status.phase, found.status.bound_node_name) == (PodPhase.WAITING, "")
    entry = await served.store.get(served.keys.pod("web"))
    assert entry is not None
    assert entry.mod_revision == result.revision


async def test_the_same_call_again_finds_itself_and_another_one_does_not(served: Served) -> None:
    request = pb.WriteRequest(verb=pb.CREATE, objects=[pod("web").to_json()], uids=[str(uuid.uuid4())])
    stub = served.stub()
    first = await stub.Write(request)
    again = await stub.Write(request)
    assert [r.outcome for r in (*first.results, *again.results)] == [pb.CREATED, pb.CREATED]
    assert again.results[0].uid == first.results[0].uid == request.uids[0]
    assert again.results[0].revision == first.results[0].revision
    (other,) = await served.client.create(pod("web"))
    assert other.outcome is Outcome.ALREADY_EXISTS
    assert other.message == "pod 'web' exists already"


async def test_results_keep_the_order_and_one_bad_object_harms_no_other(served: Served) -> None:
    bad = json.loads(pod("bad").to_json())
    bad["spec"]["unitz"] = []
    objects = [pod("a").to_json(), json.dumps(bad).encode(), b"{", pod("b").to_json(), pod("a").to_json()]
    reply = await served.stub().Write(pb.WriteRequest(verb=pb.CREATE, objects=objects))
    outcomes = [(r.name, r.outcome) for r in reply.results]
    assert outcomes == [
        ("a", pb.CREATED),
        ("bad", pb.INVALID),
        ("", pb.INVALID),
        ("b", pb.CREATED),
        ("a", pb.ALREADY_EXISTS),
    ]
    assert "unitz" in reply.results[1].message


async def test_what_only_milpa_makes_is_refused(served: Served) -> None:
    (result,) = await served.client.create(Node(metadata=ObjectMeta(name="n")))
    assert result.outcome is Outcome.INVALID
    assert "standbyNodes" in result.message


async def test_an_update_keeps_status_and_counts_changes_of_the_spec(served: Served) -> None:
    await served.client.create(pod("web", labels={"v": "1"}))
    key = served.keys.pod("web")
    entry = await served.store.get(key)
    assert entry is not None
    body = json.loads(entry.value)
    body["status"] = {"phase": "Running"}
    body["spec"]["fieldOfTheFuture"] = "kept"
    put = Txn((Compare(key, entry.mod_revision),), (Put(key, json.dumps(body).encode()),))
    assert (await served.store.commit(put)).ok

    (result,) = await served.client.update(pod("web", labels={"v": "2"}))
    assert result.outcome is Outcome.UPDATED
    found = await served.client.get(Pod, "web")
    assert (found.metadata.labels, found.metadata.generation) == ({"v": "2"}, 1)
    assert found.status.phase is PodPhase.RUNNING
    entry = await served.store.get(key)
    assert entry is not None
    assert json.loads(entry.value)["spec"]["fieldOfTheFuture"] == "kept"

    (result,) = await served.client.update(make_pod("web", "registry.local/web:2", ["serve"], labels={"v": "2"}))
    assert result.outcome is Outcome.UPDATED
    found = await served.client.get(Pod, "web")
    assert found.metadata.generation == 2
    assert found.spec.units[0].image == "registry.local/web:2"
    assert found.status.phase is PodPhase.RUNNING


async def test_updates_that_cannot_be(served: Served) -> None:
    (missing,) = await served.client.update(pod("web"))
    assert (missing.outcome, missing.message) == (Outcome.NOT_FOUND, "there is no pod 'web' to update")
    await served.client.create(pod("web", instance_type="t3.nano"))
    (changed,) = await served.client.update(pod("web", instance_type="t3.large"))
    assert changed.outcome is Outcome.INVALID
    assert changed.message.startswith("spec.instanceType: the cloud resources under pod 'web' can't be changed")
    other = pod("web", instance_type="t3.nano")
    other = other.model_copy(update={"metadata": other.metadata.model_copy(update={"uid": "another"})})
    (another,) = await served.client.update(other)
    assert another.outcome is Outcome.CONFLICT
    await served.client.delete("pod", "web")
    (gone,) = await served.client.update(pod("web", instance_type="t3.nano"))
    assert gone.outcome is Outcome.ENDED
    assert "being deleted" in gone.message
    (again,) = await served.client.create(pod("web"))
    assert again.outcome is Outcome.ENDED
    assert "being deleted" in again.message


async def test_apply_creates_updates_or_leaves_alone(served: Served) -> None:
    outcomes = []
    for image in ("a:1", "a:1", "a:2"):
        (result,) = await served.client.apply(make_pod("web", f"registry.local/{image}"))
        outcomes.append(result.outcome)
    assert outcomes == [Outcome.CREATED, Outcome.UNCHANGED, Outcome.UPDATED]


async def test_updates_by_many_at_once_lose_none(served: Served) -> None:
    """Each adds to the spec by itself, so the generation counts them all."""
    await served.client.create(pod("web"))
    results = await asyncio.gather(
        *(served.client.update(make_pod("web", f"registry.local/web:{number}")) for number in range(6))
    )
    done = [result.outcome for (result,) in results].count(Outcome.UPDATED)
    assert done >= 2
    assert (await served.client.get(Pod, "web")).metadata.generation == 1 + done


async def test_a_dry_run_answers_and_changes_nothing(served: Served) -> None:
    before = await served.store.revision()
    (result,) = await served.client.create(pod("web"), dry_run=True)
    assert result.outcome is Outcome.CREATED
    assert await served.client.list(Pod) == []
    await served.client.create(pod("web"))
    assert [r.outcome for r in await served.client.create([pod("web"), pod("b")], dry_run=True)] == [
        Outcome.ALREADY_EXISTS,
        Outcome.CREATED,
    ]
    assert [r.outcome for r in await served.client.apply(pod("web"), dry_run=True)] == [Outcome.UNCHANGED]
    assert [p.name for p in await served.client.list(Pod)] == ["web"]
    assert before < await served.store.revision()


async def test_a_secret_is_shown_by_its_lengths_and_can_be_written_back(served: Served) -> None:
    await served.client.create(Secret(metadata=ObjectMeta(name="s"), data={"password": "c2VjcmV0"}))
    shown = await served.client.get(Secret, "s")
    assert shown.data == {"password": "NiBieXRlcw=="}  # "6 bytes"
    (result,) = await served.client.apply(shown.model_copy(update={"data": {**shown.data, "user": "bWU="}}))
    assert result.outcome is Outcome.UPDATED
    entry = await served.store.get(served.keys.other("Secret", "s"))
    assert entry is not None
    assert json.loads(entry.value)["data"] == {"password": "c2VjcmV0", "user": "bWU="}


async def test_writes_are_told_as_events(memory: Served) -> None:
    spec = ServiceSpec(selector=LabelSelector(match_labels={"app": "web"}), ports=(UnitPort(port=80),))
    results = await memory.client.create([pod("web"), Service(metadata=ObjectMeta(name="svc"), spec=spec)])
    assert {result.outcome for result in results} == {Outcome.CREATED}, results
    await memory.client.update(pod("web", labels={"a": "b"}))
    await memory.client.delete("service", "svc")

    async def told() -> set[tuple[str, str]]:
        events = await memory.client.list("events")
        return {(event.involved_object.name, event.status) for event in events}  # type: ignore[attr-defined]

    wanted = {("web", "pod-created"), ("svc", "service-created"), ("web", "pod-updated"), ("svc", "service-deleted")}

    async def complete() -> bool:
        return await told() == wanted

    await eventually(complete)


async def test_malformed_calls_are_refused_whole(memory: Served) -> None:
    stub = memory.stub()
    for request, reason in (
        (pb.WriteRequest(objects=[b"{}"], uids=["a", "b"]), "2 uids for 1 objects"),
        (pb.WriteRequest(objects=[b"{}"], uids=["../x"]), "uid"),
        (pb.WriteRequest(objects=[b"{}", b"{}"], uids=["a", "a"]), "same uid"),
        (pb.WriteRequest(objects=[b"{}"] * 10_001), "at most 10000"),
    ):
        with pytest.raises(Exception, match=reason) as caught:
            await stub.Write(request)
        assert caught.value.code().name == "INVALID_ARGUMENT"


async def test_an_object_too_big_for_the_store_is_refused_with_its_size(memory: Served) -> None:
    big = make_pod("web", "a", ["x" * 1_300_000])
    (result,) = await memory.client.create(big)
    assert result.outcome is Outcome.INVALID


class LosingStore(MemoryStore):
    """Loses the answer of a commit that took effect, and then does not answer at all for a while."""

    losing = False

    async def commit(self, txn: Txn) -> TxnResult:
        if self.losing and txn.ops:
            await super().commit(txn)
            raise StoreUnavailable("no endpoint answers")
        if self.losing:
            raise StoreUnavailable("no endpoint answers")
        return await super().commit(txn)


async def test_a_lost_answer_is_resolved_by_repeating_the_call(tmp_path_factory: pytest.TempPathFactory) -> None:
    store = LosingStore()
    async with serving(store, tmp_path_factory.mktemp("certs")) as served:
        store.losing = True
        request = pb.WriteRequest(verb=pb.CREATE, objects=[pod("web").to_json()], uids=["u1"])
        with pytest.raises(Exception, match="repeat the call") as caught:
            await served.stub().Write(request)
        assert caught.value.code().name == "UNAVAILABLE"
        store.losing = False
        reply = await served.stub().Write(request)
        assert reply.results[0].outcome == pb.CREATED
        assert [p.uid for p in await served.client.list(Pod)] == ["u1"]


async def test_a_create_of_3000_pods_keeps_nobody_waiting(served: Served) -> None:
    await served.client.create(pod("x"))
    big = asyncio.create_task(served.client.create([pod(f"p{number}") for number in range(3000)]))
    read = 0
    while not big.done():
        await served.client.get(Pod, "x")
        read += 1
    assert {result.outcome for result in await big} == {Outcome.CREATED}
    # How quick they are is for the benchmark; here they must get their turns while it runs, not after it.
    assert read > 5
    assert len(await served.client.list(Pod)) == 3001


async def test_bad_input_is_no_internal_error(memory: Served) -> None:
    with pytest.raises(Invalid, match="there is no kind 'cat'"):
        await memory.client.list("cat")
    with pytest.raises(Invalid, match="label selector"):
        await memory.client.list("pods", "a in (")
