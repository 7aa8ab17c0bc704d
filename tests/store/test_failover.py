"""The store against etcd servers that die, hang, come back, and demand certificates."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest

from milpa_ray.errors import StoreUnavailable
from milpa_ray.keys import prefix_end
from milpa_ray.pki import CertificateAuthority
from milpa_ray.store.connection import EtcdConfig
from milpa_ray.store.etcd import EtcdStore
from milpa_ray.store.port import Change, Put, Txn, WatchBatch
from tests.etcd_server import EtcdServer, cluster_of, free_ports
from tests.store.contract import put, take
from tests.waiting import eventually

pytestmark = pytest.mark.integration
ROOT = "/failover/"


@asynccontextmanager
async def connected(*endpoints: str, timeout_s: float = 10) -> AsyncIterator[EtcdStore]:
    store = EtcdStore(EtcdConfig(endpoints), timeout_s=timeout_s)
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EtcdServer]:
    server = EtcdServer(tmp_path).start()
    yield server
    server.stop()


@pytest.fixture
def members(tmp_path: Path) -> Iterator[list[EtcdServer]]:
    members = cluster_of(3, tmp_path)
    yield members
    for member in members:
        member.stop()


async def test_a_watch_goes_on_after_kill_and_restart_of_etcd(server: EtcdServer) -> None:
    async with connected(server.endpoint) as store:
        first = await put(store, ROOT + "a", b"0")
        async with aclosing(store.watch(ROOT, prefix_end(ROOT), first)) as watch:
            seen = await take(watch, 1)
            for number in (1, 2):
                await put(store, ROOT + "a", str(number).encode())
            waiting = asyncio.ensure_future(take(watch, 4))
            server.kill()
            server.start()
            for number in (3, 4):
                await put(store, ROOT + "a", str(number).encode())
            seen += await waiting
            await eventually(lambda: len(_senders()) == 1, what="the broken stream's sender has ended")
        await eventually(lambda: not _senders())
    assert [change.entry.value for change in seen] == [b"0", b"1", b"2", b"3", b"4"]


def _senders() -> list[asyncio.Task[object]]:
    """gRPC's tasks that send what streams ask for; one that is left over waits for ever."""
    return [task for task in asyncio.all_tasks() if "_consume_request_iterator" in str(task.get_coro())]


async def test_no_etcd_is_unavailable_within_the_deadline() -> None:
    async with connected(f"127.0.0.1:{free_ports(1)[0]}", timeout_s=1) as store:
        for call in (store.get("a"), store.commit(Txn(ops=(Put("a", b""),))), store.lease_grant(5)):
            async with asyncio.timeout(3):
                with pytest.raises(StoreUnavailable):
                    await call


async def test_a_stopped_etcd_is_unavailable_within_the_deadline(server: EtcdServer) -> None:
    async with connected(server.endpoint, timeout_s=1) as store:
        await put(store, ROOT + "a")
        server.pause()
        try:
            async with asyncio.timeout(3):
                with pytest.raises(StoreUnavailable):
                    await store.commit(Txn(ops=(Put(ROOT + "a", b""),)))
        finally:
            server.resume()
        await eventually(lambda: store.get(ROOT + "a"))


async def test_a_commit_waits_for_an_etcd_that_is_starting(server: EtcdServer) -> None:
    async with connected(server.endpoint) as store:
        await put(store, ROOT + "a")
        server.kill()

        async def refused() -> bool:
            with pytest.raises(StoreUnavailable):
                async with connected(server.endpoint, timeout_s=0.2) as other:
                    await other.get("a")
            return True

        await eventually(refused)
        waiting = asyncio.ensure_future(put(store, ROOT + "b"))
        await asyncio.sleep(0)
        server.start()
        await waiting


async def _write(store: EtcdStore, key: str, values: range) -> None:
    """Writes each value; what got no answer is looked up, as every caller must."""
    for value in values:
        while True:
            try:
                await put(store, key, str(value).encode())
                break
            except StoreUnavailable:
                entry = await store.get(key)
                if entry is not None and entry.value == str(value).encode():
                    break


async def _until(watch: AsyncIterator[WatchBatch], value: bytes) -> list[Change]:
    seen: list[Change] = []
    while not seen or seen[-1].entry.value != value:
        seen.extend((await anext(watch)).changes)
    return seen


@pytest.mark.parametrize("fault", ["kill", "pause"])
async def test_two_endpoints_with_a_member_gone(members: list[EtcdServer], fault: str) -> None:
    """Of three members the client knows two; the one it is using dies or hangs."""
    async with connected(members[0].endpoint, members[1].endpoint, timeout_s=6) as store:
        first = await put(store, ROOT + "a", b"0")
        async with aclosing(store.watch(ROOT, prefix_end(ROOT), first)) as watch, asyncio.timeout(40):
            seen = await take(watch, 1)
            await _write(store, ROOT + "a", range(1, 5))
            waiting = asyncio.ensure_future(_until(watch, b"9"))
            members[0].kill() if fault == "kill" else members[0].pause()
            await _write(store, ROOT + "a", range(5, 10))
            seen += await waiting
    values = [int(change.entry.value) for change in seen]
    assert sorted(set(values)) == list(range(10))
    revisions = [change.entry.mod_revision for change in seen]
    assert revisions == sorted(set(revisions))


async def test_a_member_without_its_cluster_is_left(members: list[EtcdServer]) -> None:
    """A member cut off from the others answers, but knows no leader: reads must not hang on it."""
    async with connected(members[0].endpoint, timeout_s=3) as store:
        await put(store, ROOT + "a")
        members[1].kill()
        members[2].kill()
        with pytest.raises(StoreUnavailable):
            await store.get(ROOT + "a")
        members[1].start(wait=False)
        members[1].wait_ready()

        async def back() -> bool:
            try:
                return await store.get(ROOT + "a") is not None
            except StoreUnavailable:
                return False

        await eventually(back, 20)


async def test_tls_with_client_certificates(tmp_path: Path) -> None:
    authority = CertificateAuthority.create("test")
    stranger = CertificateAuthority.create("stranger")
    files = {
        "ca": authority.pair.cert,
        **_pair("server", authority, server=True),
        **_pair("client", authority),
        **_pair("wrong", stranger),
    }
    paths = {name: tmp_path / f"{name}.pem" for name in files}
    for name, path in paths.items():
        path.write_bytes(files[name])
    server = EtcdServer(tmp_path, tls=(paths["ca"], paths["server"], paths["server_key"])).start()

    def config(name: str) -> EtcdConfig:
        pair = (str(paths[name]), str(paths[f"{name}_key"])) if name else ("", "")
        return EtcdConfig((server.endpoint,), str(paths["ca"]), *pair)

    try:
        good = EtcdStore(config("client"))
        await eventually(lambda: put(good, ROOT + "a"))
        async with aclosing(good.watch(ROOT, prefix_end(ROOT), 2)) as watch:
            assert len(await take(watch, 1)) == 1
        await good.close()
        for name in ("wrong", ""):
            bad = EtcdStore(config(name), timeout_s=1)
            with pytest.raises(StoreUnavailable):
                await bad.get(ROOT + "a")
            await bad.close()
    finally:
        server.stop()


def _pair(name: str, authority: CertificateAuthority, *, server: bool = False) -> dict[str, bytes]:
    # etcd dials its own client port with its server certificate, so that one is a client's too.
    pair = authority.issue(["127.0.0.1", "localhost"], server=server, client=True)
    return {name: pair.cert, f"{name}_key": pair.key}
