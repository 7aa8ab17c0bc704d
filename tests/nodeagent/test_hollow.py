"""Hollow agents keep the real agents' promises, thousands in one process."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from milpa_ray.errors import AgentRefused, AgentUnreachable, StaleToken
from milpa_ray.pki import CertificateAuthority
from milpa_ray.ports import CONTROLLER_IDENTITY, AgentAddress, Token, node_identity
from nodeagent.client import GrpcAgent, GrpcDialer
from nodeagent.hollow import HISTORY, STATS, Behaviour, HollowAgents, serve_hollow
from tests.nodeagent.agents import OWNER, UID, pod, report_when, states, unit

POD = pod(unit("a", "x", "true"), initUnits=[unit("i", "x", "true")])


@asynccontextmanager
async def hollow(
    behaviour: Behaviour = Behaviour(heartbeat_s=0.2), listen: str = "127.0.0.1"
) -> AsyncIterator[tuple[HollowAgents, int]]:
    server, agents, port = await serve_hollow(behaviour, f"{listen}:0")
    try:
        yield agents, port
    finally:
        await server.stop(0)


def dial(host: str, port: int) -> GrpcAgent:
    return GrpcDialer().dial(AgentAddress(host, "any.milpa", port))


async def test_a_pod_runs_and_stops_and_is_refused_afterwards() -> None:
    async with hollow() as (agents, port):
        client = dial("127.0.0.1", port)
        await client.dispatch(OWNER, POD)
        report = await report_when(client, lambda r: states(r) == {"a": "running", "i": "exit 0"})
        assert report.pod_uid == UID
        await client.dispatch(OWNER, POD)
        await client.stop(OWNER, UID, 1.0)
        assert (await client.hello(OWNER)).stopped
        with pytest.raises(AgentRefused):
            await client.dispatch(OWNER, pod(unit("a", "x"), generation=2))
        with pytest.raises(StaleToken):
            await client.hello(Token(0, 9))
        await client.close()
        stats = agents.stats()
        assert (stats["starts"], stats["repeated"], stats["calls"]["Dispatch"]) == (1, {}, 3)


async def test_second_start_of_a_pod_on_another_node_is_seen() -> None:
    async with hollow(listen="0.0.0.0") as (_, port):
        await _check_second_start(port)


async def _check_second_start(port: int) -> None:
    clients = [dial(host, port) for host in ("127.1.0.1", "127.1.0.2")]
    for client in clients:
        await client.dispatch(OWNER, POD)
    stats = json.loads(b"".join([data async for data in clients[0].logs(STATS)]))
    assert stats["nodes"] == 2
    assert stats["repeated"] == {UID: 2}
    for client in clients:
        await client.close()


async def test_history_tells_what_ran_where_and_an_ended_instance_answers_no_more() -> None:
    async with hollow(listen="0.0.0.0") as (agents, port):
        clients = [dial(host, port) for host in ("127.1.0.1", "127.1.0.2")]
        for client in clients:
            await client.dispatch(OWNER, POD)
        await clients[0].stop(OWNER, UID, 1.0)
        with pytest.raises(StaleToken):
            await clients[0].hello(Token(0, 9))
        await clients[1].hello(Token(OWNER.term + 1, 1))
        agents.power_off("127.1.0.2")
        with pytest.raises(AgentUnreachable):
            await clients[1].hello(Token(OWNER.term + 1, 1))
        first, second = [
            json.loads(line) for line in b"".join([d async for d in clients[0].logs(HISTORY)]).splitlines()
        ]
        assert (first["host"], first["refused"], first["off_at"]) == ("127.1.0.1", 1, 0.0)
        assert first["runs"][0]["stopped"] > first["runs"][0]["started"] > 0
        assert second["runs"][0]["uid"] == UID
        assert second["runs"][0]["stopped"] == 0.0
        assert second["off_at"] > second["runs"][0]["started"]
        assert second["tokens"] == [[OWNER.term, OWNER.revision], [OWNER.term + 1, 1]]
        for client in clients:
            await client.close()


async def test_units_end_as_asked_and_heartbeats_come() -> None:
    async with hollow(Behaviour(start_delay_s=0.1, run_s=0.1, exit_code=3, heartbeat_s=0.2)) as (_, port):
        client = dial("127.0.0.1", port)
        await client.dispatch(OWNER, POD)
        assert (await report_when(client, lambda r: states(r)["a"] == "exit 3")).sequence == 3
        seen = []
        async with asyncio.timeout(5):
            async for report in client.watch():
                seen.append(report.units is None)
                if len(seen) == 4:
                    break
        assert seen == [False, True, True, True]
        await client.close()


@pytest.mark.integration
async def test_the_command_serves_many_nodes_with_tls(tmp_path: Path) -> None:
    ca = CertificateAuthority.create("t")
    pair = ca.issue(["*.node.milpa", "*.boot.milpa"], server=True, client=False)
    for name, data in (("ca", ca.pair.cert), ("cert", pair.cert), ("key", pair.key)):
        (tmp_path / name).write_bytes(data)
    tls = [str(tmp_path / name) for name in ("ca", "cert", "key")]
    process = subprocess.Popen(  # noqa: ASYNC220 - it is waited for by its first line
        [sys.executable, "-m", "nodeagent.hollow", "--port", "0", "--tls", *tls], stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        port = int(process.stdout.readline().split()[-1])
        own = ca.issue([CONTROLLER_IDENTITY], server=False, client=True)
        dialer = GrpcDialer(ca.pair.cert, own.cert, own.key)
        clients = [dialer.dial(AgentAddress(f"127.2.0.{n}", node_identity(f"n{n}"), port)) for n in range(1, 21)]
        await asyncio.gather(*(client.hello(OWNER) for client in clients))
        stats = json.loads(b"".join([data async for data in clients[0].logs(STATS)]))
        assert stats["nodes"] == 20
        await asyncio.gather(*(client.close() for client in clients))
    finally:
        process.terminate()
        process.wait()
