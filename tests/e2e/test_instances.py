"""Agents and the hypervisor die while pods run; and who may call an agent, or the API server."""

import asyncio
import time

import grpc
import pytest

from milpa_ray.errors import AgentRefused, AgentUnreachable, MilpaError, StaleToken
from milpa_ray.pki import CertificateAuthority, KeyPair
from milpa_ray.ports import CONTROLLER_IDENTITY, AgentAddress, Token, bootstrap_identity, node_identity
from nodeagent.client import GrpcDialer
from tests.e2e.drills import Cluster, Fleet, Object, command_of, kill
from tests.waiting import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]


def test_a_killed_agent_is_back_and_its_units_go_on(cluster: Cluster, fleet: Fleet) -> None:
    name = fleet.names[0]
    instance = cluster.get_pod(name)["status"]["boundInstanceID"]
    before = cluster.agent_pids()
    killed = kill(before[instance])
    wait_until(lambda: cluster.agent_pids().get(instance, before[instance]) != before[instance], 10, "a new agent")
    # Its log comes through the new agent, and says that the unit was started once.
    wait_until(lambda: (logs := cluster.milpactl("logs", name)).returncode == 0 and logs.stdout == "started\n", 20)
    print(f"agent killed: logs came again after {time.monotonic() - killed:.1f} s")
    fleet.assert_undisturbed()
    others = {key: pid for key, pid in before.items() if key in fleet.instances and key != instance}
    assert others.items() <= cluster.agent_pids().items()


def test_a_killed_hypervisor_is_brought_back_by_up_and_instances_go_on(cluster: Cluster, fleet: Fleet) -> None:
    pid = cluster.hypervisor_pid()
    killed = kill(pid)
    fleet.assert_undisturbed()
    cluster.create(cluster.pod("waits-for-cloud"))
    cluster.ok("milpa", "up")
    assert cluster.hypervisor_pid() != pid
    cluster.when_running("waits-for-cloud")
    print(f"hypervisor killed, milpa up: pod created meanwhile ran after {time.monotonic() - killed:.1f} s")
    fleet.assert_undisturbed()


# ---------------------------------------------------------------- who may call whom


@pytest.fixture
def node(cluster: Cluster, fleet: Fleet) -> Object:
    pod = cluster.get_pod(fleet.names[0])
    return cluster.items("nodes")[pod["status"]["boundNodeName"]]


def _address(node: Object, identity: str) -> AgentAddress:
    host = next(a["address"] for a in node["status"]["addresses"] if a["type"] == "PrivateIP")
    return AgentAddress(host, identity)


async def _hello(dialer: GrpcDialer, address: AgentAddress) -> None:
    agent = dialer.dial(address)
    try:
        await agent.hello(Token(1, 1))
    finally:
        await agent.close()


def _certificates(cluster: Cluster, name: str) -> tuple[bytes, bytes, bytes]:
    certs = cluster.home.certs
    return tuple((certs / file).read_bytes() for file in ("ca.crt", f"{name}.crt", f"{name}.key"))  # type: ignore[return-value]


def test_an_agent_refuses_calls_without_a_certificate(cluster: Cluster, node: Object) -> None:
    ca, _, _ = _certificates(cluster, "client")
    address = _address(node, node_identity(node["metadata"]["name"]))
    for dialer in (GrpcDialer(ca), GrpcDialer()):
        with pytest.raises(AgentUnreachable):
            asyncio.run(_hello(dialer, address))


@pytest.mark.parametrize("name", ["client", "server"])
def test_an_agent_refuses_clients_and_api_servers(cluster: Cluster, node: Object, name: str) -> None:
    dialer = GrpcDialer(*_certificates(cluster, name))
    for identity in (node_identity(node["metadata"]["name"]), bootstrap_identity(node["status"]["batch"])):
        with pytest.raises(MilpaError) as caught:
            asyncio.run(_hello(dialer, _address(node, identity)))
        assert isinstance(caught.value, AgentRefused | AgentUnreachable)


def test_the_right_certificate_is_let_in(cluster: Cluster, node: Object) -> None:
    """So that the refusals above are not for some other reason: a controller's call comes to the token's check."""
    certs = cluster.home.certs
    authority = CertificateAuthority(KeyPair((certs / "ca.crt").read_bytes(), (certs / "ca.key").read_bytes()))
    pair = authority.issue([CONTROLLER_IDENTITY], server=False, client=True)
    dialer = GrpcDialer(authority.pair.cert, pair.cert, pair.key)
    with pytest.raises(StaleToken):
        asyncio.run(_hello(dialer, _address(node, node_identity(node["metadata"]["name"]))))


def test_a_nodes_certificate_does_not_open_the_api_server(cluster: Cluster, node: Object) -> None:
    state = cluster.home.local / "instances" / node["status"]["instanceID"] / "state"
    both = (state / "tls" / "node.pem").read_text()
    cut = both.index("-----BEGIN CERTIFICATE-----")
    stolen = cluster.home.root / "stolen"
    stolen.mkdir(exist_ok=True)
    (stolen / "client.key").write_text(both[:cut])
    (stolen / "client.crt").write_text(both[cut:])
    (stolen / "ca.crt").write_bytes((cluster.home.certs / "ca.crt").read_bytes())
    refused = cluster.milpactl("--cert-dir", str(stolen), "get", "pods")
    assert refused.returncode == 1
    assert "No resources" not in refused.stderr
    assert not refused.stdout
    assert cluster.milpactl("--cert-dir", str(cluster.home.certs), "get", "pods").returncode == 0


def test_the_api_server_refuses_calls_without_a_certificate(cluster: Cluster) -> None:
    ca = (cluster.home.certs / "ca.crt").read_bytes()
    with grpc.secure_channel(f"127.0.0.1:{cluster.api_port}", grpc.ssl_channel_credentials(ca)) as channel:
        call = channel.unary_unary("/milpa.v1.Milpa/Version")
        with pytest.raises(grpc.RpcError) as caught:
            call(b"", timeout=5)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE  # type: ignore[attr-defined]


def test_agents_run_as_what_they_are(cluster: Cluster, fleet: Fleet) -> None:
    """The agents found above are the real ones, one an instance."""
    agents = cluster.agent_pids()
    assert fleet.instances <= agents.keys()
    assert all("--user-data" in command_of(pid) for pid in agents.values())
