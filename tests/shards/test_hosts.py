"""Two controller hosts, each a network namespace of this machine, and an etcd that both reach."""

import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.waiting import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(240)]

BIN = Path(sys.executable).parent


@dataclass
class Host:
    """A network namespace with an address, and a Milpa home."""

    name: str
    address: str
    home: Path

    def command(self, *words: str) -> list[str]:
        # Not 'ip netns exec': it mounts /sys anew, without the control groups.
        return ["nsenter", f"--net=/run/netns/{self.name}", *words]

    def run(self, *words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(self.command(*words), capture_output=True, text=True, timeout=90, check=False)

    def milpa(self, command: str, *words: str) -> "subprocess.CompletedProcess[str]":
        return self.run(str(BIN / "milpa"), command, "--home", str(self.home), *words)


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


@pytest.fixture
def pair() -> Iterator[tuple[Host, Host]]:
    """Two hosts on one wire, with settings that name an etcd on the first."""
    tag = random.randrange(1000)
    with tempfile.TemporaryDirectory(prefix="milpa-test-") as text:
        folder = Path(text)
        hosts = [Host(f"mh{tag}{x}", f"10.77.0.{n}", folder / x) for n, x in ((1, "a"), (2, "b"))]
        etcd = None
        try:
            for host in hosts:
                ip("netns", "add", host.name)
                ip("-n", host.name, "link", "set", "lo", "up")
            ip(
                "link",
                "add",
                "wire",
                "netns",
                hosts[0].name,
                "type",
                "veth",
                "peer",
                "name",
                "wire",
                "netns",
                hosts[1].name,
            )
            for host in hosts:
                ip("-n", host.name, "addr", "add", f"{host.address}/24", "dev", "wire")
                ip("-n", host.name, "link", "set", "wire", "up")
                write_settings(host, hosts[0].address, tag)
            url = f"http://{hosts[0].address}:2379"
            words = ["etcd", "--data-dir", str(folder / "etcd"), "--listen-client-urls", url]
            words += ["--advertise-client-urls", url, "--listen-peer-urls", "http://127.0.0.1:2380"]
            with (folder / "etcd.log").open("wb") as log:
                etcd = subprocess.Popen(hosts[0].command(*words), stdout=log, stderr=log)
            yield hosts[0], hosts[1]
            down = hosts[0].milpa("down")
            assert down.returncode == 0, down.stderr
        finally:
            if etcd is not None:
                etcd.kill()
                etcd.wait()
            for host in hosts:
                subprocess.run(["ip", "netns", "del", host.name], check=False)


def write_settings(host: Host, etcd: str, tag: int) -> None:
    (host.home / "etc").mkdir(parents=True)
    settings = {
        "clusterName": "hosts",
        "cloud": {"local": {"bridge": f"mh{tag}", "subnet": "10.78.0.0/16"}},
        "etcd": {"client": {"endpoints": [f"{etcd}:2379"]}},
    }
    (host.home / "etc/server.yml").write_text(json.dumps(settings))


def test_second_host_joins_with_the_token_and_serves_the_api(pair: tuple[Host, Host]) -> None:
    first, second = pair
    up = first.milpa("up", "--node-ip", first.address, "--ray-port", "6379")
    assert up.returncode == 0, up.stderr
    join = ("--join", f"{first.address}:6379", "--node-ip", second.address)
    assert "ray.token is missing" in second.milpa("server", *join).stderr
    (second.home / "certs").mkdir(exist_ok=True)
    for name in ("ray.token", "ca.crt", "ca.key"):
        (second.home / "certs" / name).write_bytes((first.home / "certs" / name).read_bytes())
    (second.home / "certs/ray.token").chmod(0o600)
    log = second.home / "worker.log"
    with log.open("wb") as output:
        words = [str(BIN / "milpa"), "server", "--home", str(second.home), *join]
        worker = subprocess.Popen(second.command(*words), stdout=output, stderr=output)
    try:
        wait_until(lambda: worker.poll() is not None or b"joined" in log.read_bytes(), 60)
        assert worker.poll() is None, log.read_text()
        names = {part["name"] for part in json.loads(first.milpa("status", "-o", "json").stdout) if part["ok"]}
        assert {f"api-{first.address}", f"api-{second.address}"} <= names
        words = ["--endpoints", f"{second.address}:54555", "--cert-dir", str(first.home / "certs"), "version"]
        asked = first.run(str(BIN / "milpactl"), *words)
        assert asked.returncode == 0, asked.stderr
    finally:
        worker.terminate()
        worker.wait(30)
    assert worker.returncode == 0, log.read_text()
