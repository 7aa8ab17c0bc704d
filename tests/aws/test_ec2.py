"""The compute port on EC2's API: the contract, what a launch asks for, and what becomes of EC2's refusals."""

import secrets
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from cloud.aws.ec2 import Ec2Compute, Surroundings
from cloud.aws.images import Images
from cloud.aws.network import Network
from cloud.aws.session import AwsSession
from milpa_ray.errors import (
    CapacityScope,
    CloudThrottled,
    CloudUnavailable,
    Invalid,
    LaunchOutdated,
    LaunchRejected,
    MilpaError,
    NoCapacity,
)
from milpa_ray.planner.garbage import Known, plan_garbage
from milpa_ray.ports import InstanceState
from tests.aws.account import IMAGE_TAGS, Account, client
from tests.aws.proxy import AwsProxy
from tests.cloud.compute_contract import ComputeContract, launch, launch_call

OFFER = ("t3.nano", "us-east-1a")


@pytest.fixture(scope="session")
def group(moto: Any, account: Account) -> str:
    """A security group for nodes."""
    ec2 = client("ec2", moto.url)
    made: str = ec2.create_security_group(GroupName="nodes", Description="nodes", VpcId=account.vpc)["GroupId"]
    return made


@pytest.fixture
def compute(aws: AwsSession, account: Account, group: str) -> Ec2Compute:
    async def groups() -> tuple[str, ...]:
        return (group,)

    def arch_of(instance_type: str) -> str:
        return {"t4g.nano": "arm64", "t3.enormous": ""}.get(instance_type, "amd64")

    around = Surroundings(Images(aws, "", IMAGE_TAGS), Network(aws, account.vpc), arch_of, groups)
    return Ec2Compute(aws, "test", around)


@pytest.fixture
def offer() -> tuple[str, str]:
    return OFFER


class TestEc2Compute(ComputeContract):
    pass


@pytest.fixture
def ec2(moto: Any) -> Iterator[Any]:
    """A plain client that goes past the proxy."""
    made = client("ec2", moto.url)
    yield made
    made.close()


async def test_a_launch_is_what_the_manual_and_good_sense_want(
    compute: Ec2Compute, account: Account, group: str, ec2: Any
) -> None:
    call = launch_call(*OFFER, credits="unlimited", volume_gib=20, user_data=b"\x1f\x8bdata")
    (made,) = await launch(compute, call)
    (told,) = ec2.describe_instances(InstanceIds=[made.id])["Reservations"][0]["Instances"]
    assert told["ImageId"] == account.image
    assert told["SubnetId"] == account.subnets["us-east-1a"]
    (card,) = told["NetworkInterfaces"]
    assert [one["GroupId"] for one in card["Groups"]] == [group]
    assert made.security_groups == (group,)
    assert told["MetadataOptions"]["HttpTokens"] == "required"
    assert told["MetadataOptions"]["HttpPutResponseHopLimit"] == 1
    (disk,) = told["BlockDeviceMappings"]
    assert (disk["DeviceName"], disk["Ebs"]["DeleteOnTermination"]) == ("/dev/sda1", True)
    (volume,) = ec2.describe_volumes(VolumeIds=[disk["Ebs"]["VolumeId"]])["Volumes"]
    assert (volume["Size"], volume["Encrypted"], volume["VolumeType"]) == (20, True, "gp3")
    assert {"Key": "milpa-cluster", "Value": "test"} in volume["Tags"]
    assert made.tags["milpa-batch"] == call.token
    data = ec2.describe_instance_attribute(InstanceId=made.id, Attribute="userData")["UserData"]["Value"]
    assert data == "H4tkYXRh"  # the bytes as they are, base64-encoded once
    assert made.public_ip


async def test_the_root_volume_is_never_smaller_than_the_images(compute: Ec2Compute) -> None:
    assert (await compute.prepare(launch_call(*OFFER, volume_gib=1))).volume_gib == 15


async def test_a_prepared_call_is_prepared_already(compute: Ec2Compute) -> None:
    prepared = await compute.prepare(launch_call(*OFFER))
    assert await compute.prepare(prepared) == prepared


async def test_a_lost_answer_is_found_again_by_the_same_token(compute: Ec2Compute, proxy: AwsProxy) -> None:
    proxy.lose_response("RunInstances")
    call = await compute.prepare(launch_call(*OFFER, count=3))
    with pytest.raises(CloudUnavailable):
        await compute.launch(call)
    made = await compute.launch(call)
    assert sorted(one.launch_index for one in made) == [0, 1, 2]
    assert len([one for one in await compute.list_instances() if one.token == call.token]) == 3


async def test_a_launch_may_bring_fewer(compute: Ec2Compute, proxy: AwsProxy) -> None:
    proxy.shortage(instance_type="t3.nano", left=2)
    made = await launch(compute, launch_call(*OFFER, count=5))
    assert len(made) == 2


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("InsufficientInstanceCapacity", NoCapacity),
        ("RequestLimitExceeded", CloudThrottled),
        ("InternalError", CloudUnavailable),
        ("InvalidParameterCombination", LaunchRejected),
        ("UnauthorizedOperation", LaunchRejected),
        ("IdempotentInstanceTerminated", LaunchOutdated),
    ],
)
async def test_a_refused_launch_says_what_it_means(
    compute: Ec2Compute, proxy: AwsProxy, code: str, kind: type[MilpaError]
) -> None:
    call = await compute.prepare(launch_call(*OFFER))
    proxy.fail("RunInstances", code)
    with pytest.raises(kind):
        await compute.launch(call)


async def test_a_subnet_without_addresses_is_left_out_for_a_while(
    compute: Ec2Compute, proxy: AwsProxy, account: Account
) -> None:
    call = await compute.prepare(launch_call(*OFFER))
    proxy.fail("RunInstances", "InsufficientFreeAddressesInSubnet")
    with pytest.raises(NoCapacity) as caught:
        await compute.launch(call)
    assert caught.value.scope is CapacityScope.SUBNET
    with pytest.raises(NoCapacity, match="add a subnet") as caught:
        await compute.prepare(launch_call(*OFFER))
    assert caught.value.scope is CapacityScope.SUBNET
    assert (await compute.prepare(launch_call("t3.nano", "us-east-1b"))).subnet == account.subnets["us-east-1b"]


async def test_a_recorded_launch_of_an_image_that_is_gone_is_outdated(compute: Ec2Compute) -> None:
    call = replace(await compute.prepare(launch_call(*OFFER)), image="ami-00000000000000000")
    with pytest.raises(LaunchOutdated):
        await compute.launch(call)


async def test_one_instance_that_may_not_be_ended_keeps_no_other_alive(
    compute: Ec2Compute, proxy: AwsProxy, ec2: Any
) -> None:
    made = await launch(compute, launch_call(*OFFER, count=5))
    ids = sorted(one.id for one in made)
    ec2.modify_instance_attribute(InstanceId=ids[1], DisableApiTermination={"Value": True})
    try:
        states = await compute.terminate(ids)
    finally:
        ec2.modify_instance_attribute(InstanceId=ids[1], DisableApiTermination={"Value": False})
    assert set(states) == {*ids} - {ids[1]}
    assert set(states.values()) <= {InstanceState.SHUTTING_DOWN, InstanceState.TERMINATED}
    assert set(await compute.terminate(ids)) == set(ids)


async def test_only_our_clusters_instances_are_listed(compute: Ec2Compute) -> None:
    (made,) = await launch(compute, launch_call(*OFFER, tags={"milpa-cluster": "another"}))
    assert made.id not in {one.id for one in await compute.list_instances()}


async def test_the_garbage_collector_tells_lost_instances_from_known_and_foreign_ones(compute: Ec2Compute) -> None:
    """Of one cluster: an instance of a node, one of an open batch, one that nobody knows; and one of another cluster
    that has our name."""
    ours = {"milpa-cluster": "test", "milpa-cluster-uuid": secrets.token_hex(8)}
    made = {
        name: (await launch(compute, launch_call(*OFFER, tags=tags)))[0]
        for name, tags in {
            "node": ours,
            "batch": ours,
            "lost": ours,
            "foreign": ours | {"milpa-cluster-uuid": secrets.token_hex(8)},
        }.items()
    }
    known = Known(ours["milpa-cluster-uuid"], {made["node"].id}, {made["batch"].token})
    listed = await compute.list_instances()
    later = max(instance.launched_at for instance in listed) + 60
    plan = plan_garbage(listed, known, frozenset(), now_s=later, min_age_s=30, max_fraction=0.1)
    assert plan.condemned == ()
    plan = plan_garbage(listed, known, plan.suspects, now_s=later, min_age_s=30, max_fraction=0.1)
    assert plan.condemned == (made["lost"].id,)
    assert made["foreign"].id in plan.foreign
    await compute.terminate(plan.condemned)
    states = {instance.id: instance.state for instance in await compute.list_instances()}
    assert states[made["lost"].id] in (InstanceState.SHUTTING_DOWN, InstanceState.TERMINATED)


async def test_labels_are_set_in_few_calls(compute: Ec2Compute, proxy: AwsProxy) -> None:
    made = await launch(compute, launch_call(*OFFER, count=4))
    ids = [one.id for one in made]
    unknown = "i-0123456789abcdef0"
    proxy.fail("CreateTags", "InvalidInstanceID.NotFound", message=f"The instance ID '{unknown}' does not exist")
    await compute.label(
        {id_: {"app": "web"} for id_ in ids[:3]}
        | {ids[3]: {"Name": "db", "app": "db"}, "i-0123456789abcdef0": {"app": "web"}}
    )
    listed = {one.id: one.tags for one in await compute.list_instances()}
    assert [listed[id_]["app"] for id_ in ids] == ["web", "web", "web", "db"]
    # One for each set of labels, and one again without the instance that EC2 does not know.
    assert proxy.counts()["CreateTags"] == 3


@pytest.mark.parametrize(
    "labels",
    [{"aws:reserved": "x"}, {"k" * 129: "x"}, {"k": "v" * 257}, {f"k{i}": "v" for i in range(48)}],
    ids=["reserved", "long key", "long value", "too many"],
)
async def test_labels_that_ec2_would_refuse_are_told_before(
    compute: Ec2Compute, proxy: AwsProxy, labels: dict[str, str]
) -> None:
    with pytest.raises(Invalid, match=r"i-1.*label"):
        await compute.label({"i-1": labels})
    assert proxy.counts()["CreateTags"] == 0


async def test_a_volume_grows_and_never_shrinks(compute: Ec2Compute, proxy: AwsProxy, ec2: Any) -> None:
    (made,) = await launch(compute, launch_call(*OFFER, volume_gib=16))
    await compute.grow_volume(made.id, 20)
    await compute.grow_volume(made.id, 18)
    (told,) = ec2.describe_instances(InstanceIds=[made.id])["Reservations"][0]["Instances"]
    volume = told["BlockDeviceMappings"][0]["Ebs"]["VolumeId"]
    assert ec2.describe_volumes(VolumeIds=[volume])["Volumes"][0]["Size"] == 20
    assert proxy.counts()["ModifyVolume"] == 1
