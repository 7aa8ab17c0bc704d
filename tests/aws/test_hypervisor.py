"""The machines behind the API, without Milpa: what boto3 launches boots, serves, is told of its end, and is gone."""

import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from milpa_ray.errors import AgentUnreachable
from milpa_ray.pki import CertificateAuthority
from milpa_ray.ports import CONTROLLER_IDENTITY, AgentAddress, Hello, bootstrap_identity
from milpa_ray.userdata import UserData
from nodeagent.client import GrpcDialer
from tests.aws.account import Account, client, furnish
from tests.aws.bench import free_range
from tests.aws.hypervisor import Hypervisor
from tests.aws.moto_server import MotoServer
from tests.aws.rack import HollowRack
from tests.aws.watch import bench_network
from tests.e2e.leaks import Marks, held, now_in_ticks, traces
from tests.nodeagent.agents import OWNER
from tests.waiting import eventually, wait_until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]


@pytest.fixture
def machines(moto: MotoServer, tmp_path: Path) -> Iterator[tuple[Hypervisor, Account]]:
    network = free_range()
    account = furnish(moto.url, network)
    bridge = f"ma{random.randrange(100000)}"
    marks = Marks((str(tmp_path),), bridge, str(network))
    hypervisor = Hypervisor(moto.url, account, tmp_path / "machines", bench_network(bridge, network, tmp_path, 5000))
    hypervisor.start()
    namespaces: set[str] = set()
    before = 0
    try:
        yield hypervisor, account
        namespaces, before = traces(marks).get("namespace", set()), now_in_ticks()
    finally:
        left = hypervisor.stop()
    assert left == []
    assert hypervisor.errors == []
    assert traces(marks) == {}
    wait_until(lambda: not held(namespaces, before), 10, "namespaces are gone")


def launch(ec2: Any, account: Account, user_data: UserData, spot: bool = False) -> dict[str, Any]:
    market = {"InstanceMarketOptions": {"MarketType": "spot"}} if spot else {}
    answer = ec2.run_instances(
        ImageId=account.image,
        InstanceType="t3.nano",
        MinCount=1,
        MaxCount=1,
        SubnetId=account.subnets["us-east-1b"],
        UserData=user_data.pack(),
        **market,
    )
    return dict(answer["Instances"][0])


async def hello(address: str) -> Hello | None:
    agent = GrpcDialer().dial(AgentAddress(address, "any.milpa"))
    try:
        return await agent.hello(OWNER)
    except AgentUnreachable:
        return None
    finally:
        await agent.close()


async def test_what_is_launched_boots_with_its_own_user_data_and_ends(
    machines: tuple[Hypervisor, Account], moto: MotoServer
) -> None:
    hypervisor, account = machines
    ec2 = client("ec2", moto.url)
    plain = launch(ec2, account, UserData("aws-test", "batch-1"))
    spot = launch(ec2, account, UserData("aws-test", "batch-2"), spot=True)
    for made, batch in ((plain, "batch-1"), (spot, "batch-2")):
        answer = await eventually(partial(hello, made["PrivateIpAddress"]), 30, "the agent answers")
        assert answer.pod_uid == ""
        folder = hypervisor.directory_of(made["InstanceId"])
        fetched = UserData.unpack((folder / "fetched-user-data").read_bytes())
        assert (fetched.cluster, fetched.batch) == ("aws-test", batch), "from the metadata service"

    told = GrpcDialer().dial(AgentAddress(spot["PrivateIpAddress"], "any.milpa"))
    hypervisor.interrupt(spot["InstanceId"], notice_s=8.0)
    async for report in told.watch():
        if report.interruption_at:
            break
    await told.close()
    await eventually(lambda: [r.id for r in hypervisor.living()] == [plain["InstanceId"]], 20, "it was taken back")
    ec2.terminate_instances(InstanceIds=[plain["InstanceId"]])
    await eventually(lambda: not hypervisor.living(), 20, "the other ended, too")
    assert await hello(plain["PrivateIpAddress"]) is None


async def test_a_rack_answers_for_every_instance_until_it_is_terminated(moto: MotoServer, tmp_path: Path) -> None:
    network = free_range()
    account = furnish(moto.url, network)
    bridge = f"ma{random.randrange(100000)}"
    authority = CertificateAuthority.create("aws-test")
    rack = HollowRack(moto.url, account, tmp_path, bench_network(bridge, network, tmp_path, 5000), authority)
    rack.start()
    try:
        ec2 = client("ec2", moto.url)
        addresses = {
            made["InstanceId"]: made["PrivateIpAddress"]
            for made in (launch(ec2, account, UserData("c", "b")) for _ in range(3))
        }
        pair = authority.issue([CONTROLLER_IDENTITY], server=False, client=True)
        dialer = GrpcDialer(authority.pair.cert, pair.cert, pair.key)

        async def answers(address: str) -> bool:
            agent = dialer.dial(AgentAddress(address, bootstrap_identity("b")))
            try:
                await agent.hello(OWNER)
            except AgentUnreachable:
                return False
            finally:
                await agent.close()
            return True

        for address in addresses.values():
            await eventually(partial(answers, address), 30, "its agent answers")
        await eventually(lambda: len(rack.living()) == 3, 20, "all are watched")
        ended, address = addresses.popitem()
        ec2.terminate_instances(InstanceIds=[ended])
        await eventually(lambda: len(rack.living()) == 2, 20, "it is gone")
        assert not await answers(address)
        assert [await answers(address) for address in addresses.values()] == [True, True]
        assert (await rack.stats())["nodes"] >= 3
    finally:
        assert rack.stop() == []
    assert rack.errors == []
    assert traces(Marks((str(tmp_path),), bridge, str(network))) == {}
