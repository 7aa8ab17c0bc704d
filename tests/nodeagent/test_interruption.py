"""Spot interruption notices: asked for over real HTTP, and told by a real agent."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from milpa_ray.clock import SystemClock
from milpa_ray.ports import AgentReport
from nodeagent.imds import ENDPOINT_VARIABLE, InstanceMetadata
from nodeagent.interruption import DISABLED_VARIABLE, NOTICE, metadata_enabled, watch_interruption
from tests.nodeagent.agents import OWNER, RunningAgent, running_agent
from tests.nodeagent.metadata_server import MetadataServer, metadata_server
from tests.waiting import eventually

ACTION = "meta-data/spot/instance-action"
LIFE_CYCLE = "meta-data/instance-life-cycle"
AT = datetime(2031, 5, 1, 12, 2, tzinfo=UTC)
TERMINATE = b'{"action": "terminate", "time": "2031-05-01T12:02:00Z"}'
POLL_S = 0.02


@pytest.fixture
def server() -> Iterator[MetadataServer]:
    with metadata_server() as found:
        found.answers[LIFE_CYCLE] = b"spot"
        yield found


async def watched(endpoint: str) -> list[datetime]:
    told: list[datetime] = []
    await watch_interruption(InstanceMetadata(endpoint), told.append, SystemClock(), POLL_S)
    return told


async def test_the_notice_is_told_once_it_is_there(server: MetadataServer) -> None:
    watching = asyncio.create_task(watched(server.endpoint))
    await eventually(lambda: server.asked > 5, 5.0)
    assert not watching.done()
    server.answers[ACTION] = TERMINATE
    async with asyncio.timeout(5):
        assert await watching == [AT]


@pytest.mark.parametrize("answer", [b"", b"soon", b"[]", b'{"action": "terminate"}', b'{"time": 7}', b'{"time": "x"}'])
async def test_a_notice_without_a_time_counts_as_given_now(server: MetadataServer, answer: bytes) -> None:
    server.answers[ACTION] = answer
    before = datetime.now(UTC)
    (at,) = await watched(server.endpoint)
    assert before + NOTICE <= at <= datetime.now(UTC) + NOTICE


async def test_an_on_demand_instance_is_asked_about_once(server: MetadataServer) -> None:
    server.answers |= {LIFE_CYCLE: b"on-demand", ACTION: TERMINATE}
    async with asyncio.timeout(5):
        assert await watched(server.endpoint) == []
    assert server.asked == 1


async def test_a_service_that_does_not_tell_the_life_cycle_is_asked_on(server: MetadataServer) -> None:
    server.answers = {ACTION: TERMINATE}
    async with asyncio.timeout(5):
        assert await watched(server.endpoint) == [AT]


async def test_a_service_that_comes_late_is_found(server: MetadataServer) -> None:
    """Something else answers there at first, as on a machine that is no cloud's."""
    server.answers[ACTION] = TERMINATE
    visits = 0

    def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal visits
        visits += 1
        writer.close()

    told: list[datetime] = []
    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as other:
        metadata = InstanceMetadata(f"http://127.0.0.1:{other.sockets[0].getsockname()[1]}")
        watching = asyncio.create_task(watch_interruption(metadata, told.append, SystemClock(), POLL_S))
        await eventually(lambda: visits > 2, 5.0)
        assert not watching.done()
        metadata.endpoint = server.endpoint
        async with asyncio.timeout(5):
            await watching
    assert told == [AT]


def test_the_sdks_switch_turns_it_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DISABLED_VARIABLE, raising=False)
    assert metadata_enabled()
    monkeypatch.setenv(DISABLED_VARIABLE, "TRUE")
    assert not metadata_enabled()


@pytest.mark.integration
async def test_an_agent_tells_its_watchers(tmp_path: Path, server: MetadataServer) -> None:
    with running_agent(tmp_path, environment={ENDPOINT_VARIABLE: server.endpoint}) as agent:
        reports = await _until_interrupted(agent, server)
        assert reports[0].interruption_at is None
        assert reports[-1].interruption_at == AT
        assert reports[-1].sequence > reports[0].sequence
        # The agent stops nothing by itself, and tells it again after its restart.
        assert not reports[-1].stopped
        agent.kill()
        agent.start()
        assert (await _until_interrupted(agent, server))[-1].interruption_at == AT


async def _until_interrupted(agent: RunningAgent, server: MetadataServer) -> list[AgentReport]:
    client = agent.dial()
    reports = []
    try:
        async with asyncio.timeout(20):
            await client.hello(OWNER)
            async for report in client.watch():
                server.answers[ACTION] = TERMINATE
                reports.append(report)
                if report.interruption_at is not None:
                    break
    finally:
        await client.close()
    return reports
