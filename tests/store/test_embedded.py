import asyncio
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import pytest
import yaml

from milpa_ray.errors import Invalid, Terminal
from milpa_ray.store.connection import EtcdConfig
from milpa_ray.store.embedded import EmbeddedEtcd
from milpa_ray.store.etcd import EtcdStore
from milpa_ray.store.etcd_binary import find_etcd, may_corrupt
from milpa_ray.store.etcd_supervisor import ETCD_PID, SUPERVISOR_PID
from milpa_ray.store.port import Put, Txn, WatchBatch
from milpa_ray.store.process_id import ProcessId
from tests.etcd_server import free_ports
from tests.waiting import wait_until


def embedded(tmp_path: Path, *, data_dir: str | None = None, config_file: str = "", port: int = 0) -> EmbeddedEtcd:
    return EmbeddedEtcd(
        str(tmp_path / "data") if data_dir is None else data_dir,
        str(tmp_path / "run"),
        str(tmp_path / "log" / "etcd.log"),
        config_file,
        client_port=port or free_ports(1)[0],
    )


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[EmbeddedEtcd]:
    etcd = embedded(tmp_path)
    yield etcd
    etcd.stop()


def process(tmp_path: Path, name: str) -> ProcessId:
    found = ProcessId.load(tmp_path / "run" / name)
    assert found is not None
    return found


async def write(endpoint: str, value: bytes) -> None:
    store = EtcdStore(EtcdConfig((endpoint,)))
    await store.commit(Txn(ops=(Put("/a", value),)))
    await store.close()


async def read(endpoint: str) -> bytes | None:
    store = EtcdStore(EtcdConfig((endpoint,)))
    entry = await store.get("/a")
    await store.close()
    return entry.value if entry else None


@pytest.mark.integration
async def test_data_and_endpoint_survive_stop_and_start(etcd: EmbeddedEtcd, tmp_path: Path) -> None:
    assert etcd.running() is None
    endpoint = etcd.start()
    assert endpoint.startswith("http://127.0.0.1:")
    assert etcd.running() == endpoint
    assert etcd.start() == endpoint
    await write(endpoint, b"kept")
    processes = [process(tmp_path, name) for name in (ETCD_PID, SUPERVISOR_PID)]
    etcd.stop()
    assert etcd.running() is None
    assert not any(found.alive() for found in processes)
    assert etcd.start() == endpoint
    assert await read(endpoint) == b"kept"


@pytest.mark.integration
async def test_a_killed_etcd_comes_back_by_itself(etcd: EmbeddedEtcd, tmp_path: Path) -> None:
    endpoint = etcd.start()
    await write(endpoint, b"kept")
    killed = process(tmp_path, ETCD_PID)
    killed.send(signal.SIGKILL)
    wait_until(lambda: process(tmp_path, ETCD_PID) != killed and process(tmp_path, ETCD_PID).alive())
    assert await read(endpoint) == b"kept"


@pytest.mark.integration
async def test_an_idle_watch_gets_progress_marks(etcd: EmbeddedEtcd) -> None:
    """Also from a release whose answers to progress requests are not exact."""
    store = EtcdStore(EtcdConfig((etcd.start(),)), exact_marks=False)
    async with aclosing(store.watch("/a", "/b", await store.revision() + 1)) as watch:
        waiting = asyncio.ensure_future(anext(watch))
        elsewhere = (await store.commit(Txn(ops=(Put("/z", b""),)))).revision
        assert await asyncio.wait_for(waiting, 10) == WatchBatch(elsewhere)
    await store.close()


@pytest.mark.integration
def test_etcd_outlives_its_supervisor_and_is_adopted(etcd: EmbeddedEtcd, tmp_path: Path) -> None:
    endpoint = etcd.start()
    running, supervisor = process(tmp_path, ETCD_PID), process(tmp_path, SUPERVISOR_PID)
    supervisor.send(signal.SIGKILL)
    assert supervisor.wait(5)
    assert etcd.running() == endpoint
    assert etcd.start() == endpoint
    assert process(tmp_path, ETCD_PID) == running
    etcd.stop()
    assert not running.alive()


@pytest.mark.integration
def test_daemons_have_sessions_of_their_own(etcd: EmbeddedEtcd, tmp_path: Path) -> None:
    etcd.start()
    assert os.getsid(process(tmp_path, ETCD_PID).pid) == process(tmp_path, SUPERVISOR_PID).pid


@pytest.mark.integration
def test_the_configuration_file_customizes_etcd(tmp_path: Path) -> None:
    file = tmp_path / "etcd.yml"
    file.write_text(f"data-dir: {tmp_path}/own\nsnapshot-count: 10000\nname: mine\n")
    etcd = embedded(tmp_path, data_dir="", config_file=str(file))
    try:
        etcd.start()
        assert (tmp_path / "own" / "member").is_dir()
        assert yaml.safe_load((tmp_path / "run" / "etcd.yml").read_text())["snapshot-count"] == 10000
    finally:
        etcd.stop()


@pytest.mark.integration
def test_a_wrong_setting_is_told_at_once_with_the_log(tmp_path: Path) -> None:
    file = tmp_path / "etcd.yml"
    file.write_text("heartbeat-interval: 5000\nelection-timeout: 10\n")
    etcd = embedded(tmp_path, config_file=str(file))
    with pytest.raises(Terminal, match=r"did not start(.|\n)*election-timeout"):
        etcd.start()
    assert etcd.running() is None


@pytest.mark.integration
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("data-dir: /x\n", "given twice"),
        ("- a\n", "no mapping"),
        ("a: [\n", "cannot read"),
        ("listen-client-urls: https://127.0.0.1:1\n", "must start with http://"),
    ],
)
def test_wrong_configuration_files(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "etcd.yml"
    file.write_text(content)
    etcd = embedded(tmp_path, config_file=str(file))
    with pytest.raises(Invalid, match=message):
        etcd.start()


@pytest.mark.integration
def test_a_port_in_use_is_refused(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        etcd = embedded(tmp_path, port=port)
        with pytest.raises(Terminal, match="another process listens"):
            etcd.start()


def test_a_stale_pid_file_names_nobody(tmp_path: Path) -> None:
    mine = ProcessId.of(os.getpid())
    assert mine is not None
    stale = ProcessId(mine.pid, mine.started - 1, mine.boot)
    (tmp_path / "run").mkdir()
    stale.save(tmp_path / "run" / ETCD_PID)
    etcd = embedded(tmp_path)
    assert etcd.running() is None
    etcd.stop()
    assert mine.alive()


def test_no_etcd_names_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("milpa_ray.store.etcd_binary.find_spec", lambda _: None)
    with pytest.raises(Terminal, match="etcd-server"):
        find_etcd()


def test_releases_that_lose_data() -> None:
    assert [v for v in ("3.4.23", "3.5.0", "3.5.2", "3.5.3", "3.5.12", "3.5.2-rc.1") if may_corrupt(v)] == [
        "3.5.0",
        "3.5.2",
        "3.5.2-rc.1",
    ]
