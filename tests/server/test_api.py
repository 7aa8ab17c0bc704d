"""Who may call, what a port in use says, and the calls that are about the server itself."""

import asyncio
import json
from pathlib import Path

import grpc
import pytest

from milpa_ray import __version__
from milpa_ray.api import Secret
from milpa_ray.api.meta import ObjectMeta
from milpa_ray.certs import read_pair
from milpa_ray.client import AsyncClient
from milpa_ray.client.calls import make_pod
from milpa_ray.errors import ApiUnavailable, Invalid, Terminal
from milpa_ray.pki import CertificateAuthority
from milpa_ray.ports import CLIENT_IDENTITY, CONTROLLER_IDENTITY, bootstrap_identity, node_identity
from milpa_ray.proto import milpa_pb2 as pb
from milpa_ray.proto import milpa_pb2_grpc
from milpa_ray.server.api import ApiConfig, ApiServer
from milpa_ray.store.memory import MemoryStore
from milpa_ray.store.port import Put, Txn
from tests.server.serving import Served, new_keys, serving


async def code_of(call: object) -> tuple[str, str]:
    with pytest.raises(grpc.RpcError) as caught:
        await call  # type: ignore[misc]
    return caught.value.code().name, caught.value.details() or ""


@pytest.mark.parametrize("name", [node_identity("n1"), bootstrap_identity("b1"), CONTROLLER_IDENTITY])
async def test_certificates_of_agents_and_controllers_open_nothing(memory: Served, name: str) -> None:
    pair = memory.ca.issue([name], server=True, client=True)
    code, details = await code_of(memory.stub(pair).Version(pb.VersionRequest()))
    assert code == "PERMISSION_DENIED"
    assert name in details
    with pytest.raises(grpc.RpcError) as caught:
        async for _ in memory.stub(pair).List(pb.ListRequest(kind="Pod")):
            pass
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_a_name_in_the_subject_alone_opens_nothing(memory: Served) -> None:
    """The common name is the first of ``names``; what counts is among the alternative names."""
    pair = memory.ca.issue([f"x.{CLIENT_IDENTITY}", "y"], server=False, client=True)
    assert (await code_of(memory.stub(pair).Version(pb.VersionRequest())))[0] == "PERMISSION_DENIED"


async def test_a_certificate_of_another_ca_is_refused_by_tls(memory: Served) -> None:
    pair = CertificateAuthority.create("other").issue([CLIENT_IDENTITY], server=False, client=True)
    assert (await code_of(memory.stub(pair).Version(pb.VersionRequest())))[0] == "UNAVAILABLE"


async def test_no_certificate_is_refused_by_tls(memory: Served) -> None:
    credentials = grpc.ssl_channel_credentials(memory.ca.pair.cert)
    options = [("grpc.ssl_target_name_override", "server.milpa")]
    async with grpc.aio.secure_channel(memory.endpoint, credentials, options=options) as channel:
        stub = milpa_pb2_grpc.MilpaStub(channel)
        assert (await code_of(stub.Version(pb.VersionRequest())))[0] == "UNAVAILABLE"
    async with grpc.aio.insecure_channel(memory.endpoint) as channel:
        stub = milpa_pb2_grpc.MilpaStub(channel)
        assert (await code_of(stub.Version(pb.VersionRequest())))[0] == "UNAVAILABLE"


async def test_a_client_does_not_talk_to_a_server_that_is_not_ours(memory: Served, tmp_path: Path) -> None:
    """A node's certificate, though signed by our CA, is no server's."""
    node = memory.ca.issue([node_identity("n1")], server=True, client=False)
    server = grpc.aio.server()
    port = server.add_secure_port(
        "127.0.0.1:0", grpc.ssl_server_credentials([(node.key, node.cert)], memory.ca.pair.cert, True)
    )
    await server.start()
    try:
        async with AsyncClient([f"127.0.0.1:{port}"], cert_dir=memory.cert_dir, retry_s=0) as client:
            with pytest.raises(ApiUnavailable, match="certificates don't fit"):
                await client.version()
    finally:
        await server.stop(0)


async def test_without_tls_on_both_sides(tmp_path: Path) -> None:
    store, keys = MemoryStore(), new_keys()
    server = ApiServer(store, keys, None, ApiConfig(None, "127.0.0.1", 0))  # type: ignore[arg-type]
    await server.start()
    try:
        await store.commit(Txn(ops=(Put(keys.uuid, b"the-uuid"),)))
        async with AsyncClient([f"127.0.0.1:{server.port}"], tls=False) as client:
            version = await client.version()
        assert (version.version, version.cluster, version.cluster_uuid) == (__version__, keys.cluster, "the-uuid")
    finally:
        await server.stop()


async def test_a_port_in_use_is_said_so(memory: Served) -> None:
    config = ApiConfig(None, "127.0.0.1", memory.server.port)
    second = ApiServer(memory.store, memory.keys, memory.dialer, config)
    with pytest.raises(Terminal, match="Is another server running there"):
        await second.start()
    await second.stop()


async def test_stopping_ends_open_watches_and_leaves_no_task(tmp_path: Path) -> None:
    before = asyncio.all_tasks()
    async with serving(MemoryStore(), tmp_path) as served:
        watch = served.client.watch("pods")
        await anext(watch)
        await watch.aclose()  # type: ignore[attr-defined]
        open_watch = served.stub().Watch(pb.WatchRequest(kind="Pod"))
        await open_watch.read()
    left = {task for task in asyncio.all_tasks() - before if "milpa" in repr(task.get_coro())}
    assert not left


async def test_dump_has_objects_and_states_and_no_secrets(tmp_path: Path) -> None:
    async with serving(MemoryStore(), tmp_path, controllers={"shard-0": {"owned": {1, 2}}}) as served:
        await served.client.create([make_pod(f"p{number}", "i") for number in range(1200)])
        await served.client.create(Secret(metadata=ObjectMeta(name="s"), data={"k": "c2VjcmV0"}))
        everything = await served.client.dump()
        assert {"Pod", "Node", "Secret", "Event", "server", "shard-0"} <= set(everything)
        assert len(everything["Pod"]) == 1200
        assert "c2VjcmV0" not in json.dumps(everything)
        assert everything["server"]["objects"]["pod"] == 1200
        assert set(await served.client.dump("pods")) == {"Pod"}
        assert set(await served.client.dump("shard-0")) == {"shard-0"}
        assert set(await served.client.dump("controllers")) == {"shard-0"}
        with pytest.raises(Invalid, match="there are all, controllers, pods"):
            await served.client.dump("shard-9")


async def test_the_certificate_folder_is_the_manuals(memory: Served) -> None:
    modes = {path.name: path.stat().st_mode & 0o777 for path in memory.cert_dir.iterdir() if path.suffix}
    assert modes == {
        "ca.crt": 0o644,
        "ca.key": 0o600,
        "client.crt": 0o644,
        "client.key": 0o644,
        "server.crt": 0o600,
        "server.key": 0o600,
    }
    assert read_pair(memory.cert_dir, "client").cert.startswith(b"-----BEGIN")
