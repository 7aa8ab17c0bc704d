"""The agent link under mutual TLS: bootstrap, enrolment, and who is refused."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from milpa_ray.errors import AgentRefused, AgentUnreachable
from milpa_ray.pki import CertificateAuthority
from milpa_ray.ports import CLIENT_IDENTITY, CONTROLLER_IDENTITY, AgentAddress, bootstrap_identity, node_identity
from milpa_ray.userdata import UserData
from nodeagent.client import GrpcAgent, GrpcDialer
from tests.nodeagent.agents import OWNER, UID, RunningAgent, pod, running_agent, unit
from tests.oci import free_port

pytestmark = pytest.mark.integration

BOOT = bootstrap_identity("batch1")
OWN = node_identity("node1")
POD = pod(unit("a", "localhost:1/none", "true"))


@pytest.fixture(scope="module")
def ca() -> CertificateAuthority:
    return CertificateAuthority.create("test")


@pytest.fixture
def secure(ca: CertificateAuthority, tmp_path: Path) -> Iterator[RunningAgent]:
    pair = ca.issue([BOOT], server=True, client=False)
    user_data = UserData("test", "batch1", ca.pair.cert.decode(), pair.cert.decode(), pair.key.decode())
    with running_agent(tmp_path, user_data=user_data) as agent:
        yield agent


def dialer(
    ca: CertificateAuthority, name: str = CONTROLLER_IDENTITY, issuer: CertificateAuthority | None = None
) -> GrpcDialer:
    pair = (issuer or ca).issue([name], server=False, client=True)

    def sign(csr: bytes, node: str) -> bytes:
        return ca.sign_csr(csr, [node_identity(node)], server=True, client=False)

    return GrpcDialer(ca.pair.cert, pair.cert, pair.key, sign)


async def enrolled(secure: RunningAgent, ca: CertificateAuthority) -> GrpcAgent:
    first = secure.dial(dialer(ca), BOOT)
    await first.enroll(OWNER, "node1")
    await first.close()
    return secure.dial(dialer(ca), OWN)


async def test_enrolment_gives_the_node_its_own_certificate(secure: RunningAgent, ca: CertificateAuthority) -> None:
    agent = await enrolled(secure, ca)
    hello = await agent.hello(OWNER)
    assert (hello.node_name, hello.enrolled) == ("node1", True)
    await agent.dispatch(OWNER, POD)
    pair = secure.state / "tls/node.pem"
    assert pair.stat().st_mode & 0o777 == 0o600
    assert "PRIVATE KEY" in pair.read_text()
    secure.kill()
    secure.start()
    again = secure.dial(dialer(ca), OWN)
    assert (await again.hello(OWNER)).pod_uid == UID
    await agent.close()
    await again.close()


async def test_bootstrap_certificate_opens_nothing_after_enrolment(
    secure: RunningAgent, ca: CertificateAuthority
) -> None:
    old = secure.dial(dialer(ca), BOOT)
    with pytest.raises(AgentRefused, match="must be enrolled first"):
        await old.dispatch(OWNER, POD)
    await old.enroll(OWNER, "node1")
    for call in (old.hello(OWNER), old.dispatch(OWNER, POD), old.enroll(OWNER, "node1")):
        with pytest.raises(AgentRefused, match="dial the node anew"):
            await call
    await old.close()
    fresh = secure.dial(dialer(ca), BOOT)
    with pytest.raises(AgentUnreachable):
        await fresh.hello(OWNER)
    await fresh.close()


async def test_an_enrolled_node_keeps_its_name(secure: RunningAgent, ca: CertificateAuthority) -> None:
    agent = await enrolled(secure, ca)
    with pytest.raises(AgentRefused, match="this node is node1"):
        await agent.enroll(OWNER, "node2")
    await agent.enroll(OWNER, "node1")
    await agent.close()


async def test_a_certificate_for_another_key_is_refused(secure: RunningAgent, ca: CertificateAuthority) -> None:
    pair = ca.issue([CONTROLLER_IDENTITY], server=False, client=True)
    stranger = ca.issue([OWN], server=True, client=False)
    agent = secure.dial(GrpcDialer(ca.pair.cert, pair.cert, pair.key, lambda csr, node: stranger.cert), BOOT)
    with pytest.raises(AgentRefused, match="not for this node's key"):
        await agent.enroll(OWNER, "node1")
    assert not (await agent.hello(OWNER)).enrolled
    await agent.close()


@pytest.mark.parametrize("name", [CLIENT_IDENTITY, OWN, BOOT])
async def test_only_controllers_may_call(secure: RunningAgent, ca: CertificateAuthority, name: str) -> None:
    agent = secure.dial(dialer(ca, name), BOOT)
    with pytest.raises(AgentRefused, match=r"only controller\.milpa may call"):
        await agent.hello(OWNER)
    with pytest.raises(AgentRefused, match=r"only controller\.milpa may call"):
        async for _ in agent.logs(""):
            pass
    await agent.close()


async def test_a_foreign_ca_and_no_certificate_are_refused(secure: RunningAgent, ca: CertificateAuthority) -> None:
    foreign = dialer(ca, issuer=CertificateAuthority.create("other"))
    anonymous = GrpcDialer(ca.pair.cert)
    plain = GrpcDialer()
    for found in (foreign, anonymous, plain):
        agent = secure.dial(found, BOOT)
        with pytest.raises(AgentUnreachable):
            await agent.hello(OWNER)
        await agent.close()


async def test_a_client_does_not_take_another_node_for_this_one(secure: RunningAgent, ca: CertificateAuthority) -> None:
    await (await enrolled(secure, ca)).close()
    other = secure.dial(dialer(ca), node_identity("node2"))
    with pytest.raises(AgentUnreachable):
        await other.hello(OWNER)
    await other.close()


async def test_nobody_there_is_unreachable() -> None:
    agent = GrpcDialer(call_timeout_s=1.0).dial(AgentAddress("127.0.0.1", "x", free_port()))
    with pytest.raises(AgentUnreachable, match="cannot be reached"):
        await agent.hello(OWNER)
    with pytest.raises(AgentUnreachable):
        async for _ in agent.watch():
            pass
    await agent.close()


def test_malformed_user_data_is_told(tmp_path: Path) -> None:
    agent = RunningAgent(tmp_path)
    (tmp_path / "user-data").write_bytes(b"#!/bin/sh")
    with pytest.raises(AssertionError, match="not Milpa's user data"):
        agent.start()
