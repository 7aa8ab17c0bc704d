"""Security groups against an AWS API server."""

from collections.abc import Iterator

import pytest

from cloud.aws.groups import MAX_GROUPS, MAX_RULES, SecurityGroups
from cloud.aws.session import AwsSession
from milpa_ray.errors import CloudUnavailable, Invalid
from milpa_ray.planner.firewall import NODE_GROUP
from milpa_ray.ports import Rule
from tests.aws.account import Account, client
from tests.aws.moto_server import MotoServer
from tests.aws.proxy import AwsProxy

SSH = Rule("tcp", 22, 22, "10.77.0.0/20")
WEB = Rule("tcp", 80, 80, "10.77.0.0/20")
PING = Rule("icmp", -1, -1, "10.77.0.0/20")
EVERYTHING = Rule("all", -1, -1, "10.77.0.0/20")


@pytest.fixture
def groups(aws: AwsSession, account: Account, cluster: str) -> SecurityGroups:
    return make(aws, account, cluster)


def make(aws: AwsSession, account: Account, cluster: str, uuid: str = "uuid-1") -> SecurityGroups:
    async def vpc_id() -> str:
        return account.vpc

    return SecurityGroups(aws, cluster, uuid, vpc_id)


@pytest.fixture
def instance(moto: MotoServer, account: Account) -> Iterator[str]:
    ec2 = client("ec2", moto.url)
    made = ec2.run_instances(
        ImageId=account.image, MinCount=1, MaxCount=1, SubnetId=next(iter(account.subnets.values()))
    )["Instances"][0]["InstanceId"]
    yield made
    ec2.terminate_instances(InstanceIds=[made])


def permissions(moto: MotoServer, group_id: str) -> list[tuple[str, int | None, int | None, list[str]]]:
    (group,) = client("ec2", moto.url).describe_security_groups(GroupIds=[group_id])["SecurityGroups"]
    return sorted(
        (p["IpProtocol"], p.get("FromPort"), p.get("ToPort"), sorted(r["CidrIp"] for r in p["IpRanges"]))
        for p in group["IpPermissions"]
    )


async def test_a_group_gets_exactly_its_rules_and_changes_with_them(groups: SecurityGroups, moto: MotoServer) -> None:
    first = await groups.set_group("web", [SSH, WEB, PING])
    ranges = ["10.77.0.0/20"]
    assert permissions(moto, first) == [("icmp", -1, -1, ranges), ("tcp", 22, 22, ranges), ("tcp", 80, 80, ranges)]
    assert await groups.set_group("web", [WEB, EVERYTHING]) == first
    assert [p[:3] for p in permissions(moto, first)] in (
        [("-1", None, None), ("tcp", 80, 80)],
        [("-1", -1, -1), ("tcp", 80, 80)],
    )
    await groups.set_group("web", [])
    assert permissions(moto, first) == []


async def test_nothing_is_sent_for_rules_that_are_there(groups: SecurityGroups, proxy: AwsProxy) -> None:
    wanted = [SSH, PING, EVERYTHING, Rule("udp", 1, 65535, "0.0.0.0/0"), Rule("tcp", 1, 2, "::/0")]
    await groups.set_group("web", wanted)
    before = len(proxy.seen)
    await groups.set_group("web", list(reversed(wanted)))
    assert [seen.action for seen in proxy.seen[before:]] == ["DescribeSecurityGroups"]


async def test_a_group_may_let_in_another_group(groups: SecurityGroups, moto: MotoServer) -> None:
    balancer = await groups.set_group("balancer", [WEB])
    wanted = [Rule("tcp", 8080, 8080, balancer)]
    pods = await groups.set_group("pods", wanted)
    (group,) = client("ec2", moto.url).describe_security_groups(GroupIds=[pods])["SecurityGroups"]
    assert [pair["GroupId"] for pair in group["IpPermissions"][0]["UserIdGroupPairs"]] == [balancer]
    assert await groups.set_group("pods", wanted) == pods


async def test_names_are_lower_case_and_groups_are_tagged(
    aws: AwsSession, account: Account, moto: MotoServer, cluster: str
) -> None:
    made = await make(aws, account, cluster.upper()).set_group("Web", [])
    (group,) = client("ec2", moto.url).describe_security_groups(GroupIds=[made])["SecurityGroups"]
    assert group["GroupName"] == f"milpa-{cluster}-web"
    assert group["VpcId"] == account.vpc
    tags = {tag["Key"]: tag["Value"] for tag in group["Tags"]}
    assert tags["milpa-cluster-uuid"] == "uuid-1"
    assert tags["milpa-cluster"] == cluster.upper()


async def test_a_group_that_was_made_although_the_answer_was_lost_is_found_again(
    groups: SecurityGroups, proxy: AwsProxy, moto: MotoServer, cluster: str
) -> None:
    proxy.lose_response("CreateSecurityGroup")
    with pytest.raises(CloudUnavailable):
        await groups.set_group("web", [WEB])
    made = await groups.set_group("web", [WEB])
    assert await groups.groups() == {"web": made}


async def test_a_group_that_the_first_look_does_not_show_yet_is_found_by_the_refusal(
    groups: SecurityGroups, aws: AwsSession, account: Account, cluster: str
) -> None:
    made = await make(aws, account, cluster).set_group("web", [])
    real, looks = aws.call, []

    async def blind_at_first(service: str, operation: str, **parameters: object) -> dict[str, object]:
        answer = await real(service, operation, **parameters)
        if operation == "DescribeSecurityGroups" and not looks:
            looks.append(operation)
            return {"SecurityGroups": []}
        return answer

    aws.call = blind_at_first  # type: ignore[method-assign]
    assert await groups.set_group("web", []) == made


async def test_a_group_of_our_name_that_is_anothers_is_left_alone_and_told(
    groups: SecurityGroups, aws: AwsSession, account: Account, moto: MotoServer, cluster: str
) -> None:
    other = make(aws, account, cluster, uuid="uuid-2")
    theirs = await other.set_group("web", [WEB])
    with pytest.raises(Invalid, match=f"milpa-{cluster}-web .*{theirs}.* not of this cluster"):
        await groups.set_group("web", [])
    with pytest.raises(Invalid, match="not of this cluster"):
        await groups.remove_group("web")
    assert permissions(moto, theirs)
    assert await groups.groups() == {}


async def test_the_group_of_every_node_is_made_once_and_trusted_for_a_while(
    groups: SecurityGroups, proxy: AwsProxy
) -> None:
    (made,) = await groups.node_groups()
    sent = len(proxy.seen)
    assert await groups.node_groups() == (made,)
    assert len(proxy.seen) == sent
    assert await groups.set_group(NODE_GROUP, [SSH]) == made


async def test_a_node_group_that_was_removed_comes_back_with_its_rules(
    groups: SecurityGroups, moto: MotoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloud.aws.groups.TRUSTED_S", 0.0)
    first = await groups.set_group(NODE_GROUP, [SSH])
    client("ec2", moto.url).delete_security_group(GroupId=first)
    (second,) = await groups.node_groups()
    assert second != first
    assert permissions(moto, second) == [("tcp", 22, 22, ["10.77.0.0/20"])]


async def test_what_stands_for_the_vpc_are_its_ranges(groups: SecurityGroups) -> None:
    assert await groups.own_ranges() == ["10.77.0.0/20"]


async def test_too_many_rules_are_refused_before_anything_is_sent(groups: SecurityGroups, proxy: AwsProxy) -> None:
    rules = [Rule("tcp", port, port, "10.0.0.0/8") for port in range(1, MAX_RULES + 2)]
    with pytest.raises(Invalid, match=f"{MAX_RULES + 1} rules .* more than EC2's {MAX_RULES}"):
        await groups.set_group("web", rules)
    assert not proxy.seen
    await groups.set_group("web", rules[:MAX_RULES])


async def test_a_full_group_can_change_all_its_rules(groups: SecurityGroups, moto: MotoServer) -> None:
    await groups.set_group("web", [Rule("tcp", port, port, "10.0.0.0/8") for port in range(1, MAX_RULES + 1)])
    made = await groups.set_group("web", [Rule("udp", port, port, "10.0.0.0/8") for port in range(1, MAX_RULES + 1)])
    assert {p[0] for p in permissions(moto, made)} == {"udp"}


async def test_an_instance_is_put_into_groups(groups: SecurityGroups, moto: MotoServer, instance: str) -> None:
    wanted = [await groups.set_group("web", [WEB]), *await groups.node_groups()]
    await groups.assign(instance, wanted)
    (found,) = client("ec2", moto.url).describe_instances(InstanceIds=[instance])["Reservations"]
    assert {group["GroupId"] for group in found["Instances"][0]["SecurityGroups"]} == set(wanted)


async def test_too_many_groups_are_refused_before_the_call(groups: SecurityGroups, proxy: AwsProxy) -> None:
    with pytest.raises(Invalid, match=f"{MAX_GROUPS + 1} security groups are more than EC2's {MAX_GROUPS}"):
        await groups.assign("i-1", [f"sg-{number}" for number in range(MAX_GROUPS + 1)])
    assert not proxy.seen


async def test_an_instance_that_is_gone_is_left_alone(groups: SecurityGroups) -> None:
    await groups.assign("i-0123456789abcdef0", await groups.node_groups())


async def test_a_group_in_use_is_not_removed_until_it_is_free(groups: SecurityGroups, proxy: AwsProxy) -> None:
    await groups.set_group("web", [WEB])
    proxy.fail("DeleteSecurityGroup", "DependencyViolation")
    assert not await groups.remove_group("web")
    assert await groups.remove_group("web")
    assert await groups.groups() == {}
    assert await groups.remove_group("web")
