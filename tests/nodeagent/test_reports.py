"""What controllers make of an agent's reports, well formed or not."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
from grpc import aio

from milpa_ray.errors import AgentRefused
from milpa_ray.ports import AgentAddress, AgentReport
from nodeagent import wire
from nodeagent.client import GrpcDialer
from nodeagent.proto import agent_pb2 as pb
from nodeagent.proto import agent_pb2_grpc as pb_grpc

NOON = datetime(2031, 5, 1, 12, tzinfo=UTC)


class Liar(pb_grpc.NodeAgentServicer):
    """An agent that sends this one report."""

    def __init__(self, report: pb.Report) -> None:
        self._report = report

    async def Watch(self, request: Any, context: Any) -> AsyncIterator[pb.Report]:  # noqa: N802
        yield self._report


async def received(report: pb.Report) -> AgentReport:
    server = aio.server()
    pb_grpc.add_NodeAgentServicer_to_server(Liar(report), server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    agent = GrpcDialer().dial(AgentAddress("127.0.0.1", "any.milpa", port))
    try:
        return await anext(aiter(agent.watch()))
    finally:
        await agent.close()
        await server.stop(None)


@pytest.mark.parametrize(
    "report",
    [
        {"units_json": b"["},
        {"units_json": b"7"},
        {"units_json": b"[" * 100_000},
        {"units_json": b'[{"name": 7}]'},
        {"units_json": b"{}", "init_units_json": b"\xff"},
        {"interruption_at": "soon"},
        {"interruption_at": "0001-01-01T00:00:00+14:00"},
    ],
)
async def test_a_malformed_report_is_a_refusal_and_nothing_worse(report: dict[str, Any]) -> None:
    with pytest.raises(AgentRefused, match="malformed report"):
        await received(pb.Report(**report))


@pytest.mark.parametrize(
    "text", ["2031-05-01T12:00:00Z", "2031-05-01T14:00:00+02:00", "2031-05-01T12:00:00", "2031-05-01 12:00:00.000"]
)
async def test_the_time_of_an_interruption_is_utc_whatever_the_agent_writes(text: str) -> None:
    report = await received(pb.Report(sequence=3, interruption_at=text))
    assert report.interruption_at == NOON
    assert report.interruption_at.tzinfo is UTC


async def test_reports_arrive_as_they_were_sent() -> None:
    for sent in (AgentReport(1, interruption_at=NOON), AgentReport(2, "uid", 3, (), (), stopped=True), AgentReport(5)):
        assert await received(wire.report_to_wire(sent)) == sent
