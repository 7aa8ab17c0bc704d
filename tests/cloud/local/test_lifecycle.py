"""Starting, stopping and taking down: each may be called twice, from any state, and leaves nothing."""

# ruff: noqa: ASYNC221  (nothing else waits for these event loops)

import os
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from cloud.local.lifecycle import CloudOptions, LocalCloud, LocalCloudError
from milpa_ray.ports import InstanceState
from tests.cloud.compute_contract import launch_call
from tests.cloud.local.conftest import MakeCloud, assert_no_trace, client
from tests.cloud.local.test_fleet import answers, daemon_pid, launched
from tests.waiting import wait_until

pytestmark = pytest.mark.integration


def test_start_twice_is_one_daemon_and_stop_twice_ends_it(make_cloud: MakeCloud) -> None:
    cloud = make_cloud()
    assert not cloud.running()
    cloud.stop()
    cloud.start()
    pid = daemon_pid(cloud)
    LocalCloud(cloud.directory, cloud.socket.parent, cloud.options).start()
    assert daemon_pid(cloud) == pid
    assert cloud.running()
    assert os.getsid(pid) == pid, "it has a session of its own"
    assert cloud.socket.stat().st_mode & 0o777 == 0o600
    cloud.stop()
    cloud.stop()
    assert not cloud.running()
    assert not Path(f"/proc/{pid}").exists() or "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()


async def test_new_options_replace_the_daemon_but_not_the_instances(make_cloud: MakeCloud) -> None:
    before = make_cloud()
    before.start()
    async with client(before) as compute:
        (instance,) = await launched(compute)
    pid = daemon_pid(before)
    options = replace(before.options, registry_ports=(5000,))
    after = LocalCloud(before.directory, before.socket.parent, options)
    after.start()
    assert daemon_pid(after) != pid
    assert answers(instance.private_ip)
    rules = subprocess.run(["nft", "list", "table", "ip", f"milpa_{options.bridge}"], capture_output=True, check=True)
    assert b"dport 5000 dnat to 127.0.0.1" in rules.stdout
    moved = replace(options, subnet="10.219.0.0/24")
    with pytest.raises(LocalCloudError, match="take it down"):
        LocalCloud(before.directory, before.socket.parent, moved).start()


async def test_down_removes_everything_and_keeps_the_memory_of_launches(make_cloud: MakeCloud) -> None:
    cloud = make_cloud()
    cloud.start()
    call = launch_call(count=3)
    async with client(cloud) as compute:
        await launched(compute, call)
    cloud.down()
    cloud.down()
    assert_no_trace(cloud)
    cloud.start()
    async with client(cloud) as compute:
        assert {one.state for one in await compute.list_instances()} == {InstanceState.TERMINATED}
        again = await compute.launch(call)
        assert {one.state for one in again} == {InstanceState.TERMINATED}, "a repeated call launches nothing"
    cloud.down(remove_data=True)
    assert not cloud.directory.exists()
    assert_no_trace(cloud)


@pytest.mark.parametrize("boot_delay_s", [0.0, 0.05])
async def test_down_works_when_the_daemon_was_killed_amid_a_launch(make_cloud: MakeCloud, boot_delay_s: float) -> None:
    cloud = make_cloud(boot_delay_s=boot_delay_s)
    cloud.start()
    async with client(cloud) as compute:
        await compute.launch(launch_call(count=20))
        os.kill(daemon_pid(cloud), signal.SIGKILL)
    wait_until(lambda: not cloud.running())
    cloud.down()
    assert_no_trace(cloud)


def test_two_daemons_of_one_directory_are_refused(make_cloud: MakeCloud, tmp_path: Path) -> None:
    cloud = make_cloud()
    cloud.start()
    (cloud.directory / "options.json").unlink()
    other = LocalCloud(cloud.directory, tmp_path, cloud.options)
    other.start()  # finds the first one by its PID, and replaces it: its options are unknown
    assert other.running()
    assert not cloud.running() or daemon_pid(cloud) == daemon_pid(other)


def test_a_taken_bridge_is_an_error_that_says_so(make_cloud: MakeCloud) -> None:
    first = make_cloud()
    first.start()
    second = make_cloud(bridge=first.options.bridge)
    with pytest.raises(LocalCloudError, match=f"{first.options.bridge} exists"):
        second.start()
    second.down()
    assert Path(f"/sys/class/net/{first.options.bridge}").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"region": "mars-1"}, "mars-1"), ({"subnet": "10.0.0.0/8"}, "between /16 and /28")],
)
def test_wrong_options_are_named(tmp_path: Path, options: dict[str, str], message: str) -> None:
    cloud = LocalCloud(tmp_path / "cloud", tmp_path / "run", CloudOptions(bridge="mtwrong", **options))  # type: ignore[arg-type]
    with pytest.raises(LocalCloudError, match=message):
        cloud.start()


def test_without_root_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(LocalCloudError, match="sudo"):
        LocalCloud(tmp_path, tmp_path).start()


def test_a_socket_path_that_is_too_long_is_refused(tmp_path: Path) -> None:
    cloud = LocalCloud(tmp_path / "cloud", tmp_path / ("x" * 100), CloudOptions(bridge="mtlong"))
    with pytest.raises(LocalCloudError, match="107 bytes"):
        cloud.start()
