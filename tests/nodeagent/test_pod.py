"""Life of a pod on a real agent: real images, runc and conmon."""

import asyncio
import os
import signal
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from milpa_ray.errors import AgentRefused, StaleToken
from milpa_ray.ports import AgentReport, DesiredPod, Token
from nodeagent.client import GrpcAgent
from nodeagent.processes import find_by_arguments
from tests.nodeagent.agents import (
    OWNER,
    UID,
    RunningAgent,
    log_of,
    pod,
    report_when,
    running_agent,
    state_of,
    states,
    unit,
)
from tests.waiting import eventually

pytestmark = pytest.mark.integration

FOREVER = "trap 'exit 0' TERM; while true; do sleep 0.05; done"


def all_running(report: AgentReport) -> bool:
    return all(status.state.running for status in report.units or ())


async def test_units_start_after_init_units_in_order(agent: RunningAgent, image: str) -> None:
    client = agent.dial()
    share = {"volumeMounts": [{"name": "v", "mountPath": "/v"}]}
    desired = pod(
        unit("main", image, f"cat /v/order; {FOREVER}", **share),
        initUnits=[
            unit("one", image, "echo one >> /v/order", **share),
            unit("two", image, "echo two >> /v/order", **share),
        ],
        volumes=[{"name": "v", "emptyDir": {}}],
    )
    await client.dispatch(OWNER, desired)
    report = await report_when(client, all_running)
    assert [state_of(status) for status in report.init_units] == ["exit 0", "exit 0"]
    await eventually(lambda: log_of(client, "main"))
    assert await log_of(client, "main") == "one\ntwo\n"
    await client.close()


async def test_failing_init_unit_is_retried_but_not_under_never(agent: RunningAgent, image: str) -> None:
    client = agent.dial()
    share = {"volumeMounts": [{"name": "v", "mountPath": "/v"}]}
    script = "echo x >> /v/tries; test $(grep -c x /v/tries) = 3"
    desired = pod(
        unit("main", image, FOREVER),
        initUnits=[unit("init", image, script, **share)],
        volumes=[{"name": "v", "emptyDir": {}}],
    )
    await client.dispatch(OWNER, desired)
    report = await report_when(client, all_running)
    assert report.init_units[0].restart_count == 2
    await client.close()


async def test_never_leaves_a_failed_init_unit_and_starts_nothing(agent: RunningAgent, image: str) -> None:
    client = agent.dial()
    await client.dispatch(
        OWNER, pod(unit("main", image, FOREVER), policy="never", initUnits=[unit("i", image, "exit 4")])
    )
    report = await report_when(client, lambda r: "did not succeed" in states(r)["main"])
    assert states(report)["i"] == "exit 4"
    await client.close()


@pytest.mark.parametrize(
    ("policy", "code", "restarts"),
    [("never", 3, False), ("never", 0, False), ("onFailure", 0, False), ("onFailure", 3, True), ("always", 0, True)],
)
async def test_restart_policy(agent: RunningAgent, image: str, policy: str, code: int, restarts: bool) -> None:
    client = agent.dial()
    await client.dispatch(OWNER, pod(unit("a", image, f"exit {code}"), policy=policy))
    if restarts:
        report = await report_when(client, lambda r: r.units[0].restart_count >= 2 and "CrashLoop" in states(r)["a"])
        assert states(report)["a"].endswith(f"before the next start, exit code {code}")
        last = report.units[0].last_state if report.units else None
        assert last is not None
        assert last.terminated is not None
        assert last.terminated.exit_code == code
    else:
        report = await report_when(client, lambda r: r.units[0].state.terminated)
        assert states(report) == {"a": f"exit {code}"}
        await asyncio.sleep(0.5)  # longer than the back-off: nothing may come
        assert (await report_when(client, lambda r: True)).units[0].restart_count == 0  # type: ignore[index]
    await client.close()


async def test_what_cannot_start_says_why(agent: RunningAgent, image: str) -> None:
    client = agent.dial()
    missing = image.replace("busybox:1", "nosuch:7")
    desired = pod(
        unit("image", missing),
        unit("command", image, command=["/nosuch"]),
        unit("blank", image, command=["sleep 300"]),
        unit("mount", image, "true", volumeMounts=[{"name": "w", "mountPath": "/w"}]),
        unit("good", image, FOREVER),
    )
    await client.dispatch(OWNER, desired)
    report = await report_when(
        client, lambda r: sum(bool(s.state.waiting and s.state.waiting.start_failure) for s in r.units) == 4
    )
    found = states(report)
    assert found["image"] == f"ErrImagePull: image {missing} not found: manifest unknown"
    assert 'exec: "/nosuch": stat /nosuch: no such file or directory' in found["command"]
    assert 'exec: "sleep 300": executable file not found in $PATH' in found["blank"]
    assert "volumeMounts names volume 'w', which the pod does not have" in found["mount"]
    report = await report_when(client, lambda r: states(r)["good"] == "running")
    await client.close()


async def test_stop_is_graceful_then_hard_and_final(agent: RunningAgent, image: str) -> None:
    client = agent.dial()
    desired = pod(
        unit("soft", image, "trap 'echo bye; exit 7' TERM; while true; do sleep 0.05; done"),
        unit("deaf", image, "trap '' TERM; while true; do sleep 1; done"),
    )
    await client.dispatch(OWNER, desired)
    await report_when(client, all_running)
    begun = time.monotonic()
    await asyncio.gather(client.stop(OWNER, UID, 1.0), client.stop(OWNER, UID, 1.0))
    assert 1.0 <= time.monotonic() - begun < 8.0
    report = await report_when(client, lambda r: r.stopped)
    assert states(report) == {"soft": "exit 7", "deaf": "exit 137"}
    assert await log_of(client, "soft") == "bye\n"
    assert find_by_arguments(str(agent.state / "runc")) == []
    with pytest.raises(AgentRefused, match="was stopped on this node"):
        await client.dispatch(OWNER, pod(unit("soft", image, FOREVER), generation=2))
    await client.stop(OWNER, UID, 1.0)
    assert (await client.hello(OWNER)).stopped
    await client.close()


async def test_one_pod_only_and_tombstones(agent: RunningAgent, image: str) -> None:
    client = agent.dial()
    await client.stop(OWNER, "never-seen", 0.0)
    unseen = pod(unit("a", image, FOREVER))
    metadata = unseen.pod.metadata.model_copy(update={"uid": "never-seen"})
    with pytest.raises(AgentRefused, match="was stopped on this node"):
        await client.dispatch(OWNER, DesiredPod(unseen.pod.model_copy(update={"metadata": metadata})))
    await client.dispatch(OWNER, pod(unit("a", image, FOREVER)))
    metadata = unseen.pod.metadata.model_copy(update={"uid": "other"})
    with pytest.raises(AgentRefused, match="takes no other"):
        await client.dispatch(OWNER, DesiredPod(unseen.pod.model_copy(update={"metadata": metadata})))
    await client.close()


async def test_update_restarts_only_what_changed(agent: RunningAgent, image: str) -> None:
    client = agent.dial()
    await client.dispatch(
        OWNER, pod(unit("keep", image, FOREVER), unit("change", image, FOREVER), unit("drop", image, FOREVER))
    )
    before = await report_when(client, all_running)
    started = {s.name: s.state.running.started_at for s in before.units or () if s.state.running}
    changed = unit("change", image, f"echo $WHO; {FOREVER}", env=[{"name": "WHO", "value": "second"}])
    kept = unit("keep", image, FOREVER, ports=[{"port": 80}])
    await client.dispatch(OWNER, pod(kept, changed, unit("added", image, FOREVER), generation=2))
    after = await report_when(client, lambda r: r.generation == 2 and all_running(r))
    now = {s.name: s.state.running.started_at for s in after.units or () if s.state.running}
    assert list(now) == ["keep", "change", "added"]
    assert now["keep"] == started["keep"]
    assert now["change"] != started["change"]
    await eventually(lambda: log_of(client, "change"))
    assert await log_of(client, "change") == "second\n"
    await client.dispatch(OWNER, pod(kept, changed, generation=1))
    assert (await client.hello(OWNER)).generation == 2
    await client.close()


async def test_killed_agent_adopts_what_runs(agent: RunningAgent, image: str) -> None:
    client = agent.dial()
    await client.dispatch(
        OWNER, pod(unit("runs", image, FOREVER), unit("ends", image, "sleep 1; exit 9"), policy="never")
    )
    before = await report_when(client, all_running)
    agent.kill()
    exits = agent.state / "exits" / "unit-ends-1"
    await eventually(exits.exists)
    agent.start()
    client2 = agent.dial()
    after = await report_when(client2, lambda r: states(r)["ends"] == "exit 9")
    assert states(after)["runs"] == "running"
    assert after.units is not None
    assert before.units is not None
    assert after.units[0].state == before.units[0].state
    assert (await client2.hello(OWNER)).pod_uid == UID
    await client2.stop(OWNER, UID, 5.0)
    assert states(await report_when(client2, lambda r: r.stopped))["runs"] == "exit 0"
    await client.close()
    await client2.close()


async def test_agent_killed_again_and_again_while_starting_runs_each_unit_once(agent: RunningAgent, image: str) -> None:
    client = agent.dial()
    share = {"volumeMounts": [{"name": "v", "mountPath": "/v"}]}
    script = f"echo x >> /v/starts; {FOREVER}"
    await client.dispatch(OWNER, pod(unit("a", image, script, **share), volumes=[{"name": "v", "emptyDir": {}}]))
    for delay_s in (0.0, 0.04, 0.08, 0.12, 0.16, 0.2):
        agent.kill()
        agent.start()
        await asyncio.sleep(delay_s)  # not a wait: it moves the kill through the steps of a start
    again = agent.dial()
    await report_when(again, all_running)
    starts = agent.state / "volumes/v/starts"
    await eventually(starts.exists)
    assert starts.read_text() == "x\n"
    await client.close()
    await again.close()


async def test_stop_goes_on_after_the_agent_was_killed(agent: RunningAgent, image: str) -> None:
    client = agent.dial()
    await client.dispatch(OWNER, pod(unit("deaf", image, "trap '' TERM; while true; do sleep 1; done")))
    await report_when(client, all_running)
    stop = asyncio.create_task(client.stop(OWNER, UID, 60.0))
    await eventually(lambda: "stopping with SIGTERM" in (agent.state / "agent.log").read_text())
    agent.kill()
    await asyncio.gather(stop, return_exceptions=True)
    agent.start()
    again = agent.dial()
    report = await report_when(again, lambda r: r.stopped)
    assert states(report) == {"deaf": "exit 137"}
    await client.close()
    await again.close()


async def test_killed_conmon_leaves_the_unit_running_and_its_code_unknown(agent: RunningAgent, image: str) -> None:
    client = agent.dial()
    await client.dispatch(OWNER, pod(unit("a", image, FOREVER), policy="never"))
    await report_when(client, all_running)
    (monitor,) = find_by_arguments("unit-a-1", str(agent.state / "exits"))
    os.kill(monitor, signal.SIGKILL)
    pid = int((agent.state / "units/unit-a/1/pid").read_text())
    await asyncio.sleep(0.3)
    assert states(await report_when(client, lambda r: True)) == {"a": "running"}
    os.kill(pid, signal.SIGKILL)
    report = await report_when(client, lambda r: r.units[0].state.terminated)
    assert states(report) == {"a": "exit None"}
    await client.close()


async def test_lower_tokens_are_refused_across_restarts(agent: RunningAgent, image: str) -> None:
    client = agent.dial()
    await client.hello(Token(2, 7))
    with pytest.raises(StaleToken) as caught:
        await client.dispatch(Token(2, 6), pod(unit("a", image, FOREVER)))
    assert (caught.value.term, caught.value.revision) == (2, 7)
    agent.kill()
    agent.start()
    again = agent.dial()
    for call in (again.hello(Token(1, 99)), again.stop(Token(2, 6), UID, 0.0)):
        with pytest.raises(StaleToken):
            await call
    await again.hello(Token(2, 7))
    assert (await again.hello(Token(3, 1))).pod_uid == ""
    await client.close()
    await again.close()


async def test_heartbeats_repeat_no_statuses(agent: RunningAgent, image: str) -> None:
    client: GrpcAgent = agent.dial()
    await client.dispatch(OWNER, pod(unit("a", image, FOREVER)))
    first = await report_when(client, all_running)
    quiet = []
    async for report in client.watch():
        quiet.append(report)
        if len(quiet) == 3:
            break
    assert quiet[0].units == first.units
    assert [report.units for report in quiet[1:]] == [None, None]
    assert len({report.sequence for report in quiet}) == 1
    await client.close()


def test_second_agent_on_one_state_directory_is_refused(agent: RunningAgent, tmp_path: Path) -> None:
    other = RunningAgent(tmp_path)
    with pytest.raises(AssertionError, match="another agent runs on"):
        other.start()


async def test_a_stop_goes_on_when_its_caller_has_gone(agent: RunningAgent, image: str) -> None:
    client = agent.dial()
    await client.dispatch(
        OWNER, pod(unit("slow", image, "trap 'sleep 1; exit 6' TERM; while true; do sleep 0.05; done"))
    )
    await report_when(client, all_running)
    stop = asyncio.create_task(client.stop(OWNER, UID, 20.0))
    await eventually(lambda: "stopping with SIGTERM" in (agent.state / "agent.log").read_text())
    stop.cancel()
    assert states(await report_when(client, lambda r: r.stopped)) == {"slow": "exit 6"}
    await client.close()


async def test_a_pause_is_shortened_neither_nor_repeated_by_a_restart_of_the_agent(tmp_path: Path, image: str) -> None:
    with running_agent(tmp_path, "--restart-back-off-s", "2") as agent:
        client = agent.dial()
        await client.dispatch(OWNER, pod(unit("a", image, "exit 1")))
        waiting = await report_when(client, lambda r: "CrashLoop" in states(r)["a"])
        assert waiting.units is not None
        last = waiting.units[0].last_state
        assert last is not None
        assert last.terminated is not None
        assert last.terminated.finished_at is not None
        agent.kill()
        agent.start()
        again = agent.dial()
        await report_when(again, lambda r: r.units[0].restart_count == 1)
        passed = datetime.now(UTC) - last.terminated.finished_at
        assert 2.0 <= passed.total_seconds() < 3.5
        await client.close()
        await again.close()
