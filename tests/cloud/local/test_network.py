"""What instances reach, and what they do not."""

# ruff: noqa: ASYNC220, ASYNC221  (nothing else waits for these event loops)

import http.server
import secrets
import subprocess
import sys
import threading
from collections.abc import Iterator
from ipaddress import IPv4Network

import pytest

from cloud.local.client import LocalCompute
from cloud.local.lifecycle import LocalCloud
from cloud.local.network import Network, NetworkError
from milpa_ray.ports import Instance
from tests.cloud.compute_contract import launch_call
from tests.cloud.local.conftest import MakeCloud, random_subnet
from tests.cloud.local.test_fleet import launched, record_of

pytestmark = pytest.mark.integration

FETCH = """
import sys, urllib.request
print(urllib.request.urlopen(sys.argv[1], timeout=2).read().decode(), end="")
"""


class Page(http.server.BaseHTTPRequestHandler):
    """Answers with the address of who asks."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.client_address[0].encode())

    def log_message(self, *_: object) -> None:
        pass


def serve(address: str) -> http.server.ThreadingHTTPServer:
    server = http.server.ThreadingHTTPServer((address, 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, int]]:
    """Ports of web servers on the host: two on loopback (one of them the registry), two on all addresses."""
    made = {
        "registry": serve("127.0.0.1"),
        "private": serve("127.0.0.1"),
        "api": serve("0.0.0.0"),
        "other": serve("0.0.0.0"),
    }
    yield {name: server.server_port for name, server in made.items()}
    for server in made.values():
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def cloud(make_cloud: MakeCloud, servers: dict[str, int]) -> LocalCloud:
    cloud = make_cloud(registry_ports=(servers["registry"],), host_ports=(servers["api"],))
    cloud.start()
    return cloud


@pytest.fixture
async def pair(cloud: LocalCloud, compute: LocalCompute) -> list[Instance]:
    return await launched(compute, launch_call(count=2))


def from_inside(cloud: LocalCloud, instance: Instance, url: str) -> subprocess.CompletedProcess[str]:
    """Fetches the URL in the instance's network namespace."""
    pid = str(record_of(cloud, instance.id)["pid"])
    command = ["nsenter", "-t", pid, "-n", sys.executable, "-c", FETCH, url]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)


def gateway(cloud: LocalCloud) -> str:
    return cloud.options.subnet.replace(".0/24", ".1")


async def test_instances_reach_each_other(cloud: LocalCloud, pair: list[Instance]) -> None:
    first, second = pair
    done = from_inside(cloud, first, f"http://{second.private_ip}:6421/name")
    assert done.stdout.strip() == second.private_dns.split(".")[0], done.stderr


async def test_a_registry_on_the_hosts_loopback_is_at_the_gateway(
    cloud: LocalCloud, pair: list[Instance], servers: dict[str, int]
) -> None:
    done = from_inside(cloud, pair[0], f"http://{gateway(cloud)}:{servers['registry']}/")
    assert done.stdout == pair[0].private_ip


async def test_the_api_port_is_open(cloud: LocalCloud, pair: list[Instance], servers: dict[str, int]) -> None:
    assert from_inside(cloud, pair[0], f"http://{gateway(cloud)}:{servers['api']}/").stdout == pair[0].private_ip


@pytest.mark.parametrize("port", ["private", "other"])
async def test_other_ports_of_the_host_are_refused(
    cloud: LocalCloud, pair: list[Instance], servers: dict[str, int], port: str
) -> None:
    done = from_inside(cloud, pair[0], f"http://{gateway(cloud)}:{servers[port]}/")
    assert "refused" in done.stderr


async def test_the_hosts_loopback_is_not_reached_by_a_route_to_it(
    cloud: LocalCloud, pair: list[Instance], servers: dict[str, int]
) -> None:
    pid = str(record_of(cloud, pair[0].id)["pid"])
    # 127.0.0.2 leaves the instance through its card only if somebody inside tampers with the routes, as here.
    script = f"""
        ip route del local 127.0.0.0/8 dev lo table local
        ip addr del 127.0.0.1/8 dev lo
        ip route add 127.0.0.1 via {gateway(cloud)} dev eth0
        echo 1 >/proc/sys/net/ipv4/conf/eth0/route_localnet
        exec "$@"
    """
    for name in ("private", "registry"):
        command = ["nsenter", "-t", pid, "-n", "-m", "-p", "sh", "-c", script, "sh"]
        command += [sys.executable, "-c", FETCH, f"http://127.0.0.1:{servers[name]}/"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
        assert done.stdout == ""
        assert "Error" in done.stderr


async def test_what_goes_out_wears_the_hosts_address(cloud: LocalCloud, pair: list[Instance]) -> None:
    name = f"mt{secrets.token_hex(4)}"
    outside, near, far = random_subnet().replace(".0/24", ""), f"{name}a", f"{name}b"
    try:
        subprocess.run(["ip", "netns", "add", name], check=True)
        subprocess.run(["ip", "link", "add", near, "type", "veth", "peer", "name", far, "netns", name], check=True)
        subprocess.run(["ip", "addr", "add", f"{outside}.1/24", "dev", near], check=True)
        subprocess.run(["ip", "link", "set", near, "up"], check=True)
        for command in (f"addr add {outside}.2/24 dev {far}", f"link set {far} up"):
            subprocess.run(["ip", "-n", name, *command.split()], check=True)
        server = subprocess.Popen(
            ["ip", "netns", "exec", name, "busybox", "httpd", "-f", "-vv", "-p", "80", "-h", "/proc/self/net"],
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert server.stderr is not None
            from_inside(cloud, pair[0], f"http://{outside}.2/dev")
            line = server.stderr.readline()
            assert f"{outside}.1" in line, line
            assert pair[0].private_ip not in line
        finally:
            server.kill()
            server.communicate()
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


def test_a_bridge_of_somebody_else_is_left_alone(cloud: LocalCloud) -> None:
    stranger = Network(cloud.options.bridge, IPv4Network(random_subnet()), "/somebody/else")
    with pytest.raises(NetworkError, match="choose another name"):
        stranger.up()
    stranger.down()
    assert f"bridge {cloud.options.bridge}" in cloud.leftovers()
    assert (
        f"milpa_{cloud.options.bridge}"
        in subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True).stdout
    )


def test_a_range_in_use_is_refused(cloud: LocalCloud) -> None:
    with pytest.raises(NetworkError, match="overlaps"):
        Network(f"mt{secrets.token_hex(4)}", IPv4Network(cloud.options.subnet), "/somewhere").up()


@pytest.mark.parametrize(("bridge", "subnet"), [("a" * 16, "10.0.0.0/24"), ("a b", "10.0.0.0/24"), ("a", "10.0.0.0/8")])
def test_impossible_names_and_ranges_are_refused(bridge: str, subnet: str) -> None:
    with pytest.raises(NetworkError):
        Network(bridge, IPv4Network(subnet), "/somewhere")
