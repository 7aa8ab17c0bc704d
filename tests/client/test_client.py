"""Both clients against a real server: the whole tour, servers that come and go, clients that are killed."""

import asyncio
import contextlib
import itertools
import os
import signal
import sys
from pathlib import Path

import pytest

from milpa_ray.api import Pod, PodPhase
from milpa_ray.client import (
    AsyncClient,
    Change,
    Client,
    Outcome,
    WaitFailed,
    WaitTimeout,
    WriteFailed,
)
from milpa_ray.errors import ApiUnavailable, Invalid, NotFound
from milpa_ray.store.memory import MemoryStore
from milpa_ray.store.port import Delete, Txn, TxnResult
from tests.server.serving import Served, new_keys, serving
from tests.waiting import eventually


async def test_the_blocking_clients_tour(controlled: Served) -> None:
    def tour() -> None:
        with Client([controlled.endpoint], cert_dir=controlled.cert_dir) as client:
            assert client.version().cluster == controlled.keys.cluster
            pods = [client.pod(f"p{n:04}", "nginx", labels={"part": str(n % 2)}) for n in range(1500)]
            results = client.submit(pods)
            assert [r.name for r in results] == [p.name for p in pods]
            with pytest.raises(WriteFailed, match=r"1500 of 1500 objects failed: Pod 'p0000': pod 'p0000' exists"):
                client.submit(pods)
            assert len(client.wait(selector="part=1", timeout_s=20)) == 750
            assert [p.name for p in client.wait(["p0007", "p0001"])] == ["p0007", "p0001"]
            assert client.get(Pod, "p0000").status.phase in (PodPhase.WAITING, PodPhase.RUNNING)
            assert len(client.list("pods", "part in (0)")) == 750
            assert len(list(client.list_raw(Pod))) == 1500
            events = client.watch(Pod, "p0003")
            assert [e.change for e in itertools.islice(events, 2)] == [Change.PRESENT, Change.SYNCED]
            assert [r.outcome for r in client.delete(Pod, ["p0003"])] == [Outcome.DELETED]
            client.wait_deleted(Pod, "p0003", timeout_s=10)
            with pytest.raises(NotFound):
                client.get("pod", "p0003")
            assert client.dump("server")["server"]["objects"]["pod"] == 1499
            assert len(client.list("events")) >= 0

    await asyncio.to_thread(tour)


async def test_the_async_clients_waits(controlled: Served) -> None:
    client = controlled.client
    await client.submit([client.pod("good", "nginx"), client.pod("bad", "fails"), client.pod("job", "works")])
    (pod,) = await client.wait("good", timeout_s=10)
    assert pod.status.phase is PodPhase.RUNNING
    with pytest.raises(WaitFailed, match=r"pod 'bad' is Failed \(as its image says\)"):
        await client.wait("bad", timeout_s=10)
    ended = await client.wait(["job", "bad"], phases=["Succeeded", "Failed"], timeout_s=10)
    assert [pod.status.phase for pod in ended] == ["Succeeded", "Failed"]
    with pytest.raises(WaitTimeout, match=r"not Dispatching after 0\.2 s: good is Running"):
        await client.wait("good", phases="Dispatching", timeout_s=0.2)
    with pytest.raises(WaitTimeout, match="still there"):
        await client.wait_deleted("pod", "good", timeout_s=0.2)
    await client.wait_deleted("pod", "never-there")


async def test_a_pod_with_unknown_fields_is_refused_where_it_is_made() -> None:
    with pytest.raises(Invalid, match="instance_typo"):
        Client.pod("a", "nginx", instance_typo="c5.large")
    with pytest.raises(Invalid, match="command must be a list of words"):
        Client.pod("a", "nginx", "sleep 5")
    pod = Client.pod("a", "nginx", ["sh"], env={"A": "1"}, restart_policy="never", resources={"cpu": "2"})
    assert (pod.spec.restart_policy, pod.spec.resources.cpu, pod.spec.units[0].env[0].value) == ("never", "2", "1")


async def test_nobody_there_is_told_quickly() -> None:
    async with AsyncClient(["127.0.0.1:9", "127.0.0.1:19"], tls=False, retry_s=0.1) as client:
        async with asyncio.timeout(5):
            with pytest.raises(ApiUnavailable, match=r"127\.0\.0\.1:19: .*Connection refused.*milpa up") as caught:
                await client.version()
            assert "127.0.0.1:9: " in str(caught.value)
            with pytest.raises(ApiUnavailable):
                await client.list("pods")


async def test_another_server_is_asked_when_one_is_gone(store: MemoryStore, tmp_path: Path) -> None:
    keys = new_keys()
    async with contextlib.AsyncExitStack() as first_life, serving(store, tmp_path, keys=keys) as second:
        first = await first_life.enter_async_context(serving(store, tmp_path, keys=keys))
        async with AsyncClient([first.endpoint, second.endpoint], cert_dir=tmp_path) as client:
            await client.submit(client.pod("a", "nginx"))
            watch = client.watch("pods")
            assert [(await anext(watch)).change for _ in range(2)] == [Change.PRESENT, Change.SYNCED]
            await first_life.aclose()
            for number in range(5):
                await client.submit(client.pod(f"b{number}", "nginx"))
                assert len(await client.list("pods")) == number + 2
                async with asyncio.timeout(10):
                    event = await anext(watch)
                assert (event.change, event.name) == (Change.ADDED, f"b{number}")


async def test_a_watch_lives_through_a_restart_without_loss_or_repetition(store: MemoryStore, tmp_path: Path) -> None:
    keys = new_keys()
    async with serving(store, tmp_path, keys=keys) as served:
        port = served.server.port
        client = AsyncClient([f"127.0.0.1:{port}"], cert_dir=tmp_path)
        await client.submit([client.pod(name, "nginx") for name in ("stays", "goes", "changes")])
        watch = client.watch("pods")
        assert len([await anext(watch) for _ in range(4)]) == 4
    # The server is away; meanwhile things happen, which a new server's cache has no history of.
    async with serving(store, tmp_path, keys=keys) as other:
        await other.client.submit(other.client.pod("comes", "nginx"))
        await other.client.apply(other.client.pod("changes", "nginx:2"))
        entry = await store.get(keys.pod("goes"))
        assert entry is not None
        await store.commit(Txn(ops=(Delete(keys.pod("goes")),)))
    async with serving(store, tmp_path, keys=keys, port=port), asyncio.timeout(10):
        told = {(event.change, event.name) for event in [await anext(watch) for _ in range(3)]}
        assert told == {(Change.ADDED, "comes"), (Change.MODIFIED, "changes"), (Change.REMOVED, "goes")}
        await client.submit(client.pod("later", "nginx"))
        assert (await anext(watch)).name == "later"
        await client.close()


class SlowStore(MemoryStore):
    """Takes as long for a commit as a busy etcd."""

    async def commit(self, txn: Txn) -> TxnResult:
        await asyncio.sleep(0.02)
        return await super().commit(txn)


CREATE_200 = """
import sys
from pathlib import Path
from milpa_ray.client import Client

with Client([sys.argv[1]], cert_dir=Path(sys.argv[2])) as client:
    results = client.create([client.pod(f"p{n}", "nginx") for n in range(200)])
print(sum(r.outcome == "created" for r in results), sum(r.outcome == "already exists" for r in results))
"""


async def test_a_client_killed_in_mid_call_and_the_call_again(tmp_path: Path) -> None:
    async with serving(SlowStore(), tmp_path) as served:
        command = (sys.executable, "-c", CREATE_200, served.endpoint, str(tmp_path))
        first = await asyncio.create_subprocess_exec(*command)
        await eventually(lambda: served.client.list("pods"), 20)
        os.kill(first.pid, signal.SIGKILL)
        await first.wait()
        second = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        output, _ = await second.communicate()
        created, existed = map(int, output.split())
        assert created + existed == 200
        assert existed > 0
        pods = await served.client.list(Pod)
        assert len({pod.name for pod in pods}) == len({pod.uid for pod in pods}) == len(pods) == 200


async def test_importing_the_client_is_cheap() -> None:
    """No Ray, no boto3, no numpy; and gRPC and pydantic only at the first call."""
    code = (
        "import sys, milpa_ray.client; "
        "print([m for m in ('ray', 'boto3', 'numpy', 'grpc', 'pydantic', 'asyncio') if m in sys.modules])"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    assert (await process.communicate())[0].strip() == b"[]"
