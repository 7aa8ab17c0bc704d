"""What a unit finds inside its container, and its logs, on a real agent."""

import asyncio
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nodeagent import unit_logs
from nodeagent.cleanup import clean_up
from nodeagent.processes import command_line, find_by_arguments
from tests.nodeagent.agents import OWNER, UID, RunningAgent, log_of, pod, report_when, running_agent, states, unit
from tests.oci import Registry, build_busybox_image
from tests.waiting import eventually

pytestmark = pytest.mark.integration


async def output(agent: RunningAgent, *units: dict[str, object], **spec: Any) -> dict[str, str]:
    """What each unit of a pod wrote until all had ended."""
    client = agent.dial()
    await client.dispatch(OWNER, pod(*units, policy="never", **spec))
    await report_when(client, lambda r: all(s.state.terminated for s in r.units))
    found = {str(item["name"]): await log_of(client, str(item["name"])) for item in units}
    await client.close()
    return found


async def test_namespaces_limits_and_files(agent: RunningAgent, image: str) -> None:
    script = """
    for n in net uts mnt pid ipc; do echo $n $(ls -l /proc/self/ns/$n | grep -o '[0-9]*]'); done
    grep -E 'CapEff|CapBnd|NoNewPrivs' /proc/self/status; echo files $(ulimit -Hn)
    hostname; cat /etc/hostname; cat /etc/resolv.conf; grep -c localhost /etc/hosts; df /dev/shm | grep -c shm
    touch /x && echo writable; cat /proc/sysrq-trigger 2>&1; ps | grep -c sh; echo $HOSTNAME $HOME $PATH
    """
    client = agent.dial()
    desired = pod(unit("a", image, script), policy="never")
    await client.dispatch(OWNER, replace(desired, dns_servers=("10.0.0.2",), dns_search=("milpa.test", "x.test")))
    await report_when(client, lambda r: r.units[0].state.terminated)
    lines = (await log_of(client, "a")).splitlines()
    await client.close()
    spaces = dict(line.split() for line in lines[:5])

    def own(name: str) -> str:
        return Path(f"/proc/self/ns/{name}").readlink().name.partition("[")[2]

    assert {name: inode == own(name) for name, inode in spaces.items()} == {
        "net": True, "uts": True, "mnt": False, "pid": False, "ipc": False,
    }  # fmt: skip
    text = "\n".join(lines[5:])
    assert "CapEff:\t00000000a80425fb" in text
    assert "NoNewPrivs:\t0" in text
    assert int(text.partition("files ")[2].split()[0]) > 1024
    assert "nameserver 10.0.0.2\nsearch milpa.test x.test" in text
    assert "writable" in text
    assert "/root /usr/local/sbin:" in text


async def test_image_and_manifest_are_merged_as_in_kubernetes(
    agent: RunningAgent, registry: Registry, tmp_path: Path
) -> None:
    config = [
        *("--config.entrypoint", "echo", "--config.entrypoint", "entry", "--config.cmd", "cmd"),
        *(
            "--config.env",
            "A=image",
            "--config.env",
            "B=image",
            "--config.workingdir",
            "/var/www",
            "--config.user",
            "web",
        ),
    ]
    name = registry.push(build_busybox_image(tmp_path / "img", config), "test/config:1")
    env = [{"name": "B", "value": "unit"}, {"name": "C", "value": "$(A)-$(B)-$(X)-$$(A)"}]
    script = "echo $A $B $C; pwd; id"
    found = await output(
        agent,
        unit("plain", name),
        unit("args", name, args=["own", "args"]),
        unit("command", name, command=["echo", "$(C)"], env=env),
        unit("both", name, command=["sh", "-c"], args=[script], env=env),
        unit("root", name, "id; pwd", workingDir="/tmp/new", securityContext={"runAsUser": 0}),
        unit("ids", name, "id", securityContext={"runAsUser": 77, "runAsGroup": 88}),
        securityContext={"supplementalGroups": [4242]},
    )
    assert found["plain"] == "entry cmd\n"
    assert found["args"] == "entry own args\n"
    assert found["command"] == "image-unit-$(X)-$(A)\n"
    assert found["both"] == (
        "image unit image-unit-$(X)-$(A)\n/var/www\nuid=1000(web) gid=1001(web) groups=1002(extra),4242\n"
    )
    assert found["root"] == "uid=0(root) gid=0(root) groups=4242\n/tmp/new\n"
    assert found["ids"] == "uid=77 gid=88 groups=4242\n"


async def test_capabilities_volumes_and_sysctls(agent: RunningAgent, image: str) -> None:
    (agent.state / "packages" / "tool").mkdir()
    (agent.state / "packages" / "tool" / "file").write_text("packed\n")
    mounts = [{"name": name, "mountPath": f"/m/{name}"} for name in ("disk", "memory", "pack")]
    context = {"capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]}}
    found = await output(
        agent,
        unit(
            "writer",
            image,
            "touch /m/disk/seen; df -m /m/memory | grep -c tmpfs; cat /m/pack/file",
            volumeMounts=mounts,
        ),
        unit("reader", image, "until test -e /m/disk/seen; do sleep 0.05; done; echo seen", volumeMounts=mounts),
        unit("caps", image, "grep CapEff /proc/self/status", securityContext=context),
        unit("shm", image, "cat /proc/sys/kernel/shm_rmid_forced"),
        volumes=[
            {"name": "disk", "emptyDir": {}},
            {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": 2}},
            {"name": "pack", "packagePath": {"path": "tool"}},
        ],
        securityContext={"sysctls": [{"name": "kernel.shm_rmid_forced", "value": "1"}]},
    )
    assert found["writer"] == "1\npacked\n"
    assert found["reader"] == "seen\n"
    assert found["caps"] == "CapEff:\t0000000000001000\n"
    assert found["shm"] == "1\n"


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        (
            {"securityContext": {"sysctls": [{"name": "vm.swappiness", "value": "1"}]}},
            "vm.swappiness is not namespaced",
        ),
        ({"securityContext": {"sysctls": [{"name": "net.nosuch", "value": "1"}]}}, "net.nosuch=1: No such file"),
        ({"volumes": [{"name": "v", "packagePath": {"path": "../../etc"}}]}, "'../../etc' is not on this node"),
    ],
)
async def test_a_pod_that_cannot_be_prepared_says_why(
    agent: RunningAgent, image: str, spec: dict[str, Any], why: str
) -> None:
    client = agent.dial()
    await client.dispatch(OWNER, pod(unit("a", image, "true"), **spec))
    report = await report_when(client, lambda r: r.units[0].state.waiting and r.units[0].state.waiting.start_failure)
    assert why in states(report)["a"]
    await client.stop(OWNER, UID, 0.0)
    await client.close()


async def test_restarted_unit_begins_with_the_images_files(agent: RunningAgent, image: str) -> None:
    client = agent.dial()
    await client.dispatch(OWNER, pod(unit("a", image, "test -e /mark && echo old; touch /mark; echo run; exit 1")))
    await report_when(client, lambda r: r.units[0].restart_count >= 2)
    assert (await log_of(client, "a")).replace("run\n", "") == ""
    assert (await log_of(client, "a", lines=1)) == "run\n"
    await client.close()


async def test_logs_follow_to_the_end_through_a_rotation(
    tmp_path: Path, image_cache: Path, image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_agent(tmp_path, "--image-cache", str(image_cache)) as agent:
        client = agent.dial()
        script = (
            "for i in 1 2 3; do echo out $i; echo err $i >&2; done; until test -e /v/go; do sleep 0.05; done; echo last"
        )
        share = {"volumeMounts": [{"name": "v", "mountPath": "/v"}]}
        desired = pod(unit("a", image, script, **share), policy="never", volumes=[{"name": "v", "emptyDir": {}}])
        await client.dispatch(OWNER, desired)
        log = agent.state / "logs/a.log"
        await eventually(lambda: log.exists() and log.read_bytes().count(b"\n") == 6)
        following = asyncio.create_task(log_of(client, "a", follow=True, lines=2))
        await asyncio.sleep(0.3)
        monkeypatch.setattr(unit_logs, "ROTATE_BYTES", 10)
        assert unit_logs.rotate(log, agent.state / "units/unit-a/1/ctl")
        await eventually(log.exists)
        (agent.state / "volumes/v/go").touch()
        text = await asyncio.wait_for(following, 10)
        assert text.splitlines()[-1] == "last"
        assert len(text.splitlines()) == 3
        assert sorted((await log_of(client, "a")).splitlines()) == sorted(
            ["out 1", "out 2", "out 3", "err 1", "err 2", "err 3", "last"]
        )
        assert await log_of(client, "a", limit_bytes=4) == "ast\n"
        assert "unit a: started" in await log_of(client, "")
        await client.close()


async def test_who_follows_has_the_rest_of_an_ended_log_before_others_get_it(
    tmp_path: Path, image_cache: Path, image: str
) -> None:
    """The controllers end the instance as soon as they have saved the log."""
    with running_agent(tmp_path, "--image-cache", str(image_cache)) as agent:
        client = agent.dial()
        script = "echo first; until test -e /v/go; do sleep 0.02; done; echo last"
        share = {"volumeMounts": [{"name": "v", "mountPath": "/v"}]}
        desired = pod(unit("a", image, script, **share), policy="never", volumes=[{"name": "v", "emptyDir": {}}])
        await client.dispatch(OWNER, desired)
        await report_when(client, lambda report: states(report) == {"a": "running"})
        following = asyncio.create_task(log_of(client, "a", follow=True))
        await eventually(lambda: (agent.state / "logs/a.log").read_bytes())
        (agent.state / "volumes/v/go").touch()
        await report_when(client, lambda report: states(report) == {"a": "exit 0"})
        assert await log_of(client, "a") == "first\nlast\n"
        agent.kill()
        assert await asyncio.wait_for(following, 5) == "first\nlast\n"


def _check_clean_up(state: Path) -> None:
    command = [sys.executable, "-m", "nodeagent.cleanup", "--state-dir", str(state)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert find_by_arguments(str(state / "exits")) == []
    assert str(state) not in Path("/proc/mounts").read_text()
    assert list(Path("/sys/fs/cgroup").glob("*/milpa-test-cleanup")) == []
    assert list((state / "runc").iterdir()) == []


async def test_clean_up_leaves_nothing(tmp_path: Path, image_cache: Path, image: str) -> None:
    agent = RunningAgent(tmp_path, ["--image-cache", str(image_cache), "--cgroup-parent", "/milpa-test-cleanup"])
    try:
        agent.start()
        client = agent.dial()
        volume = {"name": "v", "emptyDir": {"medium": "Memory"}}
        mount = [{"name": "v", "mountPath": "/v"}]
        await client.dispatch(OWNER, pod(unit("a", image, "sleep 1000", volumeMounts=mount), volumes=[volume]))
        await report_when(client, lambda r: states(r)["a"] == "running")
        pid = int((agent.state / "units/unit-a/1/pid").read_text())
        await client.close()
        agent.kill()
        assert command_line(pid) == ["sleep", "1000"]
        await asyncio.to_thread(_check_clean_up, agent.state)
        await eventually(lambda: command_line(pid) == [])
    finally:
        agent.kill()
        assert clean_up(agent.state) == []
