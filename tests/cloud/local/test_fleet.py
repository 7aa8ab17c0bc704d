"""Instances as real namespaces: what they are, how they end, and that they outlive their hypervisor."""

# ruff: noqa: ASYNC240  (nothing else waits for these event loops)

import json
import os
import signal
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cloud.local.client import LocalCompute
from cloud.local.lifecycle import LocalCloud
from milpa_ray.errors import CloudUnavailable, NoCapacity
from milpa_ray.ports import Instance, InstanceState, LaunchCall
from tests.cloud.compute_contract import launch_call
from tests.cloud.local.conftest import MakeCloud, client
from tests.waiting import eventually, wait_until

pytestmark = pytest.mark.integration


def record_of(cloud: LocalCloud, instance_id: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((cloud.directory / "instances" / instance_id / "instance.json").read_text())
    return found


def daemon_pid(cloud: LocalCloud) -> int:
    return int((cloud.directory / "hypervisor.lock").read_text().split()[0])


def kill_daemon(cloud: LocalCloud) -> None:
    pid = daemon_pid(cloud)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not cloud.running())
    cloud.start()


def fetch(address: str, path: str = "name") -> str:
    with urllib.request.urlopen(f"http://{address}:6421/{path}", timeout=5) as reply:
        return str(reply.read().decode())


def answers(address: str) -> bool:
    try:
        return bool(fetch(address))
    except OSError:
        return False


async def state_of(compute: LocalCompute, instance_id: str) -> InstanceState | None:
    return {instance.id: instance.state for instance in await compute.list_instances()}.get(instance_id)


async def launched(compute: LocalCompute, call: LaunchCall | None = None) -> list[Instance]:
    """Launches and waits until all run and their agents answer."""
    call = call or launch_call()
    await compute.launch(call)

    async def running() -> list[Instance]:
        listed = [instance for instance in await compute.list_instances() if instance.token == call.token]
        return listed if all(instance.state is InstanceState.RUNNING for instance in listed) else []

    found: list[Instance] = await eventually(running)
    for instance in found:
        wait_until(lambda address=instance.private_ip: answers(address))  # type: ignore[misc]
    return found


def processes_in(pid: int) -> set[int]:
    """PIDs (the host's) that share the PID namespace of ``pid``'s."""
    namespace = os.stat(f"/proc/{pid}/ns/pid").st_ino
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                if (entry / "ns/pid").stat().st_ino == namespace:
                    found.add(int(entry.name))
            except OSError:
                continue
    return found


async def test_an_instance_has_namespaces_and_a_host_name_of_its_own(cloud: LocalCloud, compute: LocalCompute) -> None:
    (instance,) = await launched(compute)
    pid = record_of(cloud, instance.id)["pid"]
    for kind in ("net", "pid", "mnt", "uts", "ipc"):
        assert os.readlink(f"/proc/{pid}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}")
    assert fetch(instance.private_ip).strip() == instance.private_dns.split(".")[0]
    assert instance.private_dns == f"ip-{instance.private_ip.replace('.', '-')}.ec2.internal"
    assert os.uname().nodename != instance.private_dns.split(".")[0]


async def test_user_data_reaches_the_instance(cloud: LocalCloud, compute: LocalCompute) -> None:
    (instance,) = await launched(compute, launch_call(user_data=b"\x1f\x8bdata"))
    assert (cloud.directory / "instances" / instance.id / "user-data").read_bytes() == b"\x1f\x8bdata"
    assert (cloud.directory / "instances" / instance.id / "user-data").stat().st_mode & 0o777 == 0o600


async def test_a_dead_agent_is_started_again(cloud: LocalCloud, compute: LocalCompute) -> None:
    (instance,) = await launched(compute)
    pid = record_of(cloud, instance.id)["pid"]
    # The oldest: it has a child for every connection.
    agent = min(one for one in processes_in(pid) if b"httpd" in Path(f"/proc/{one}/cmdline").read_bytes()[:20])
    os.kill(agent, signal.SIGKILL)
    wait_until(lambda: not Path(f"/proc/{agent}").exists())
    await eventually(lambda: answers(instance.private_ip))
    assert await state_of(compute, instance.id) is InstanceState.RUNNING


async def test_terminate_ends_every_process_and_removes_the_instances_files(
    cloud: LocalCloud, compute: LocalCompute
) -> None:
    (instance,) = await launched(compute)
    inside = processes_in(record_of(cloud, instance.id)["pid"])
    assert len(inside) >= 2
    await compute.terminate([instance.id])

    async def terminated() -> bool:
        return await state_of(compute, instance.id) is InstanceState.TERMINATED

    await eventually(terminated)
    assert not any(Path(f"/proc/{pid}").exists() for pid in inside)
    assert os.listdir(cloud.directory / "instances" / instance.id) == ["instance.json"]
    wait_until(lambda: not Path(f"/sys/class/net/v{instance.id[-14:]}").exists())


async def test_an_instance_that_dies_by_itself_is_terminated(cloud: LocalCloud, compute: LocalCompute) -> None:
    (instance,) = await launched(compute)
    os.kill(record_of(cloud, instance.id)["pid"], signal.SIGKILL)

    async def terminated() -> bool:
        return await state_of(compute, instance.id) is InstanceState.TERMINATED

    await eventually(terminated)


async def test_addresses_are_not_used_again_at_once(compute: LocalCompute) -> None:
    first = await compute.launch(launch_call(count=2))
    await compute.terminate([instance.id for instance in first])
    second = await compute.launch(launch_call(count=2))
    assert not {instance.private_ip for instance in first} & {instance.private_ip for instance in second}


async def test_instances_outlive_a_killed_hypervisor_and_are_found_again(
    cloud: LocalCloud, compute: LocalCompute
) -> None:
    call = launch_call(count=2)
    before = await launched(compute, call)
    pids = {record_of(cloud, instance.id)["pid"] for instance in before}
    kill_daemon(cloud)

    async def listed() -> set[tuple[str, str, str]]:
        try:
            return facts(await compute.list_instances())
        except CloudUnavailable:  # gRPC has not found the new daemon yet
            return set()

    def facts(instances: Sequence[Instance]) -> set[tuple[str, str, str]]:
        return {(one.id, one.state.value, one.private_ip) for one in instances if one.token == call.token}

    assert await eventually(listed) == facts(before)
    assert all(answers(instance.private_ip) for instance in before)
    assert {record_of(cloud, instance.id)["pid"] for instance in before} == pids
    assert {one.id for one in await compute.launch(call)} == {one.id for one in before}, "the token was forgotten"
    os.kill(pids.pop(), signal.SIGKILL)

    async def one_terminated() -> bool:
        states = [one.state for one in await compute.list_instances() if one.token == call.token]
        return sorted(states) == [InstanceState.RUNNING, InstanceState.TERMINATED]

    await eventually(one_terminated, what="an adopted instance's death is noticed")


async def test_what_died_while_no_hypervisor_ran_is_terminated(cloud: LocalCloud, compute: LocalCompute) -> None:
    (instance,) = await launched(compute)
    cloud.stop()
    assert answers(instance.private_ip), "instances go on without the hypervisor"
    os.kill(record_of(cloud, instance.id)["pid"], signal.SIGKILL)
    cloud.start()

    async def terminated() -> bool:
        return await state_of(compute, instance.id) is InstanceState.TERMINATED

    await eventually(terminated)


async def test_a_launch_survives_a_hypervisor_killed_during_the_boot(make_cloud: MakeCloud) -> None:
    cloud = make_cloud(boot_delay_s=1.0)
    cloud.start()
    call = launch_call(count=3)
    async with client(cloud) as compute:
        made = await compute.launch(call)
        assert {instance.state for instance in made} == {InstanceState.PENDING}
        kill_daemon(cloud)
    async with client(cloud) as compute:
        again = await launched(compute, call)
        assert {instance.id for instance in again} == {instance.id for instance in made}


async def test_a_terminated_instance_is_forgotten_but_not_its_token(make_cloud: MakeCloud) -> None:
    cloud = make_cloud(terminated_kept_s=0.0)
    cloud.start()
    async with client(cloud) as compute:
        call = launch_call()
        (made,) = await compute.launch(call)
        await compute.terminate([made.id])

        async def forgotten() -> bool:
            return await state_of(compute, made.id) is None

        await eventually(forgotten)
        (recalled,) = await compute.launch(call)
        assert (recalled.id, recalled.state) == (made.id, InstanceState.TERMINATED)
        assert await compute.terminate([made.id]) == {}


# ---------------------------------------------------------------- faults


async def add_fault(compute: LocalCompute, **rule: object) -> None:
    await compute.set_faults(json.dumps({"add": [rule]}))


async def test_scripted_lack_of_capacity(compute: LocalCompute) -> None:
    await add_fault(compute, kind="no-capacity", type="t3.*", zone="us-east-1a", spot=True, times=1)
    await compute.launch(launch_call())
    with pytest.raises(NoCapacity) as caught:
        await compute.launch(launch_call(spot=True))
    assert caught.value.code == "InsufficientInstanceCapacity"
    await compute.launch(launch_call(spot=True))


async def test_short_launch(compute: LocalCompute) -> None:
    await add_fault(compute, kind="short-launch", count=2, times=1)
    assert [instance.launch_index for instance in await compute.launch(launch_call(count=5))] == [0, 1]


async def test_boot_that_hangs_runs_without_agent(compute: LocalCompute) -> None:
    await add_fault(compute, kind="boot-hang", times=1)
    hung, well = await compute.launch(launch_call(count=2))
    await eventually(lambda: answers(well.private_ip))

    async def running() -> bool:
        return await state_of(compute, hung.id) is InstanceState.RUNNING

    await eventually(running)
    with pytest.raises(OSError, match="refused"):
        fetch(hung.private_ip)


async def test_boot_delay(compute: LocalCompute) -> None:
    await add_fault(compute, kind="boot-delay", seconds=0.6, times=1)
    began = time.monotonic()
    await launched(compute)
    assert time.monotonic() - began >= 0.6


async def test_a_delayed_instance_can_be_terminated_before_it_boots(compute: LocalCompute) -> None:
    await add_fault(compute, kind="boot-delay", seconds=3600, times=1)
    (made,) = await compute.launch(launch_call())
    await compute.terminate([made.id])

    async def terminated() -> bool:
        return await state_of(compute, made.id) is InstanceState.TERMINATED

    await eventually(terminated)


async def test_vanish(compute: LocalCompute) -> None:
    staying, going = await launched(compute, launch_call(count=2))
    await add_fault(compute, kind="vanish", instance=going.id)

    async def terminated() -> bool:
        return await state_of(compute, going.id) is InstanceState.TERMINATED

    await eventually(terminated)
    assert await state_of(compute, staying.id) is InstanceState.RUNNING


async def test_list_lag_hides_new_instances_for_a_while(compute: LocalCompute) -> None:
    await add_fault(compute, kind="list-lag", seconds=0.5)
    (made,) = await compute.launch(launch_call())
    assert await state_of(compute, made.id) is None

    async def listed() -> bool:
        return await state_of(compute, made.id) is not None

    await eventually(listed)
