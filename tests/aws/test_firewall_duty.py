"""The firewall duty with real security groups and real launches: unit ports reach the instances of a closed cluster."""

import asyncio
import random
import secrets
from collections.abc import Iterator

import pytest

from cloud.aws.ec2 import Ec2Compute, Surroundings
from cloud.aws.groups import SecurityGroups
from cloud.aws.images import Images
from cloud.aws.network import Network
from cloud.aws.session import AwsSession
from milpa_ray.api.pod import PodPhase, Protocol, UnitPort
from milpa_ray.clock import SystemClock
from milpa_ray.controller.deps import CoordinatorDeps
from milpa_ray.controller.firewall import FirewallDuty
from milpa_ray.controller.leadership import Leadership
from milpa_ray.keys import Keys
from milpa_ray.limits import Limits
from milpa_ray.planner.firewall import FirewallPolicy, OpenPort
from milpa_ray.planner.garbage import CLUSTER_TAG, UUID_TAG
from milpa_ray.planner.membership import ShardMap
from milpa_ray.ports import AGENT_PORT, LaunchCall
from milpa_ray.store.memory import MemoryStore
from milpa_ray.store.port import Put, Txn
from tests.aws.account import IMAGE_TAGS, Account, client
from tests.aws.moto_server import MotoServer
from tests.simulation.toys import a_pod
from tests.waiting import eventually


@pytest.fixture
def groups(aws: AwsSession, account: Account, cluster: str) -> SecurityGroups:
    return SecurityGroups(aws, cluster, "uuid-1", Network(aws, account.vpc).vpc_id)


@pytest.fixture
def compute(
    aws: AwsSession, account: Account, cluster: str, groups: SecurityGroups, moto: MotoServer
) -> Iterator[Ec2Compute]:
    around = Surroundings(Images(aws, "", IMAGE_TAGS), Network(aws, account.vpc), lambda _: "amd64", groups.node_groups)
    yield Ec2Compute(aws, cluster, around)
    ec2 = client("ec2", moto.url)
    found = ec2.describe_instances(Filters=[{"Name": "tag:milpa-cluster", "Values": [cluster]}])["Reservations"]
    ids = [instance["InstanceId"] for reservation in found for instance in reservation["Instances"]]
    if ids:
        ec2.terminate_instances(InstanceIds=ids)


def open_ports(moto: MotoServer, instance_id: str) -> set[tuple[str, int, str]]:
    """What the instance's security groups let in: protocol, port, range."""
    ec2 = client("ec2", moto.url)
    (reservation,) = ec2.describe_instances(InstanceIds=[instance_id])["Reservations"]
    (instance,) = reservation["Instances"]
    # EC2 tells them in both places; moto those of the launch at the card, those set later at the instance.
    told_at = [instance["SecurityGroups"], *(card["Groups"] for card in instance["NetworkInterfaces"])]
    ids = sorted({group["GroupId"] for place in told_at for group in place})
    return {
        (permission["IpProtocol"], permission.get("FromPort", -1), source["CidrIp"])
        for group in ec2.describe_security_groups(GroupIds=ids)["SecurityGroups"]
        for permission in group["IpPermissions"]
        for source in permission["IpRanges"]
    }


async def test_a_closed_cluster_opens_what_its_pods_declare(
    compute: Ec2Compute, groups: SecurityGroups, cluster: str, moto: MotoServer
) -> None:
    store, keys = MemoryStore(), Keys(cluster)
    await store.commit(Txn(ops=(Put(keys.map, ShardMap(coordinator="me").to_json()),)))
    deps = CoordinatorDeps(
        store,
        keys,
        SystemClock(),
        random.Random(1),
        Limits(retry_first_s=0.01),
        lease=None,  # type: ignore[arg-type]
        compute=compute,
        recorder=None,  # type: ignore[arg-type]
        firewall=groups,
        firewall_policy=FirewallPolicy(open_to_vpc=False, ports=(OpenPort(Protocol.ICMP, -1),)),
    )
    duty = asyncio.create_task(FirewallDuty(deps, Leadership(store, keys, "me"), groups).run())
    try:
        tags = {CLUSTER_TAG: cluster, UUID_TAG: "uuid-1"}
        call = await compute.prepare(LaunchCall(secrets.token_hex(8), 2, "t3.nano", "us-east-1a", tags=tags))
        instance, other = await compute.launch(call)
        base = {("icmp", -1, "10.77.0.0/20"), ("tcp", AGENT_PORT, "10.77.0.0/20")}
        await eventually(lambda: open_ports(moto, instance.id) == base)

        pod = a_pod("web", PodPhase.RUNNING, bound_instance_id=instance.id)
        unit = pod.spec.units[0].model_copy(update={"ports": (UnitPort(port=80), UnitPort(port=443))})
        pod = pod.model_copy(update={"spec": pod.spec.model_copy(update={"units": (unit,)})})
        await store.commit(Txn(ops=(Put(keys.pod("web"), pod.to_json()),)))
        declared = {("tcp", 80, "10.77.0.0/20"), ("tcp", 443, "10.77.0.0/20")}
        await eventually(lambda: open_ports(moto, instance.id) == base | declared)
        assert open_ports(moto, other.id) == base
    finally:
        duty.cancel()
        await asyncio.gather(duty, return_exceptions=True)
