"""An instance with the real node agent runs a real pod, whose image comes from a registry on the host's loopback."""

import os
from collections.abc import AsyncIterator, Iterator

import pytest

from cloud.local.client import LocalCompute
from cloud.local.lifecycle import LocalCloud
from milpa_ray.errors import AgentUnreachable
from milpa_ray.ports import AgentAddress, Hello, Instance, InstanceState, Token
from milpa_ray.userdata import UserData
from nodeagent.client import GrpcAgent, GrpcDialer
from tests.cloud.compute_contract import launch_call
from tests.cloud.local.conftest import MakeCloud, assert_no_process, assert_no_trace
from tests.nodeagent.agents import pod, unit
from tests.oci import Registry, build_busybox_image, running_registry
from tests.waiting import eventually, wait_until

pytestmark = pytest.mark.integration

OWNER = Token(1, 1)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    folder = tmp_path_factory.mktemp("registry")
    with running_registry(folder) as registry:
        registry.push(build_busybox_image(folder / "busybox"), "busybox:latest")
        yield registry


@pytest.fixture(scope="module")
def cloud(make_cloud: MakeCloud, registry: Registry) -> LocalCloud:
    cloud = make_cloud(agent_command="", registry_ports=(registry.port,))
    cloud.start()
    return cloud


@pytest.fixture
async def node(compute: LocalCompute) -> Instance:
    (made,) = await compute.launch(launch_call(user_data=UserData("test", "batch").pack()))
    return made


@pytest.fixture
async def agent(node: Instance) -> AsyncIterator[GrpcAgent]:
    agent = GrpcDialer().dial(AgentAddress(node.private_ip, "any.milpa"))
    await eventually(lambda: hello(agent), 30.0, "the agent answers")
    yield agent
    await agent.close()


async def hello(agent: GrpcAgent) -> Hello | None:
    try:
        return await agent.hello(OWNER)
    except AgentUnreachable:
        return None


async def run_sleeper(agent: GrpcAgent, registry: Registry) -> None:
    """Dispatches a pod and returns once its unit runs."""
    await agent.dispatch(OWNER, pod(unit("main", f"{registry.host}/busybox", "echo hello; hostname; sleep 3600")))
    async for report in agent.watch():
        if report.units and report.units[0].state.running:
            return


def groups_of(cloud: LocalCloud, instance: Instance) -> list[str]:
    return [
        folder
        for folder, _, _ in os.walk("/sys/fs/cgroup")
        if folder.endswith(f"/milpa-{cloud.options.bridge}/{instance.id}")
    ]


async def test_a_pod_runs_on_the_instance_and_ends_with_it(
    cloud: LocalCloud, compute: LocalCompute, node: Instance, agent: GrpcAgent, registry: Registry
) -> None:
    await run_sleeper(agent, registry)

    async def log() -> list[str]:
        return b"".join([chunk async for chunk in agent.logs("main")]).decode().split()

    async def written() -> bool:
        return len(await log()) == 2

    await eventually(written)
    assert await log() == ["hello", node.private_dns.split(".")[0]]
    assert groups_of(cloud, node)

    await compute.terminate([node.id])

    async def terminated() -> bool:
        listed = {instance.id: instance.state for instance in await compute.list_instances()}
        return listed[node.id] is InstanceState.TERMINATED

    await eventually(terminated)
    assert not groups_of(cloud, node)
    assert os.listdir(cloud.directory / "instances" / node.id) == ["instance.json"]
    assert_no_process(node.id)  # conmon had it on its command line


async def test_down_ends_a_running_pod_without_trace_when_the_hypervisor_is_dead(
    cloud: LocalCloud, node: Instance, agent: GrpcAgent, registry: Registry
) -> None:
    await run_sleeper(agent, registry)
    os.kill(int((cloud.directory / "hypervisor.lock").read_text().split()[0]), 9)
    wait_until(lambda: not cloud.running())
    assert (await agent.hello(OWNER)).pod_uid
    cloud.down()
    assert cloud.leftovers() == []
    assert_no_trace(cloud)
    assert (cloud.directory / "images").is_dir(), "cached images are data"
    cloud.start()
