"""Local clouds for tests: each with a directory, bridge and subnet of its own, taken down without a trace."""

import contextlib
import os
import random
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from cloud.local.client import LocalCompute
from cloud.local.lifecycle import CloudOptions, LocalCloud
from cloud.local.network import used_ranges

CLUSTER = "test"
WEB_AGENT = "sh -c 'hostname >name; exec busybox httpd -f -p 6421 -h .'"
"""Stands for the node agent: answers HTTP on the agents' port with the files of the instance's directory."""

MakeCloud = Callable[..., LocalCloud]


def random_subnet() -> str:
    """A free /24; tests may run next to each other."""
    while True:
        subnet = IPv4Network(f"10.{random.randint(220, 249)}.{random.randint(0, 255)}.0/24")
        if not any(taken.overlaps(subnet) for taken, _ in used_ranges()):
            return str(subnet)


@pytest.fixture(scope="module")
def make_cloud() -> Iterator[MakeCloud]:
    """Builds local clouds; ``make_cloud(registry_ports=...)`` sets options. All are gone after the module."""
    made: list[LocalCloud] = []

    def make(**options: object) -> LocalCloud:
        root = Path(tempfile.mkdtemp(prefix="milpa-test-"))
        settings = {
            "bridge": f"mt{secrets.token_hex(4)}",
            "subnet": random_subnet(),
            "registry_ports": (),
            "agent_command": WEB_AGENT,
            "max_instances": 20,
        }
        cloud = LocalCloud(root / "cloud", root / "run", CloudOptions(**(settings | options)))  # type: ignore[arg-type]
        made.append(cloud)
        return cloud

    yield make
    for cloud in made:
        cloud.down(remove_data=True)
        shutil.rmtree(cloud.directory.parent)
        assert_no_trace(cloud)


@pytest.fixture(scope="module")
def cloud(make_cloud: MakeCloud) -> LocalCloud:
    """A running local cloud that the module's tests share."""
    cloud = make_cloud()
    cloud.start()
    return cloud


@pytest.fixture
async def compute(cloud: LocalCloud) -> AsyncIterator[LocalCompute]:
    """A client of the shared cloud; afterwards no instance lives and no fault is set."""
    async with client(cloud) as compute:
        yield compute
        await compute.set_faults('{"clear": true}')
        await compute.terminate([instance.id for instance in await compute.list_instances()])


@contextlib.asynccontextmanager
async def client(cloud: LocalCloud, cluster: str = CLUSTER) -> AsyncIterator[LocalCompute]:
    compute = LocalCompute(cloud.socket, cluster)
    try:
        yield compute
    finally:
        await compute.close()


def assert_no_trace(cloud: LocalCloud) -> None:
    """No process, mount, network card, bridge, rule or control group of the cloud is on the machine. Looks for itself,
    not through the cloud's own code."""
    bridge = cloud.options.bridge
    assert_no_process(str(cloud.directory))
    assert str(cloud.directory) not in Path("/proc/self/mountinfo").read_text()
    assert not Path(f"/sys/class/net/{bridge}").exists()
    assert not [folder for folder, _, _ in os.walk("/sys/fs/cgroup") if bridge in folder]
    assert bridge not in os.popen("nft list tables").read()
    assert str(cloud.options.subnet) not in os.popen("ip route").read()


def assert_no_process(name: str) -> None:
    """No process has that text in its command line or environment."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                texts = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
                assert os.fsencode(name) not in texts, f"process {entry.name} is left"
