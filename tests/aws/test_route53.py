"""The cluster's private zone against an AWS API server."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator

import pytest

from cloud.aws.route53 import PrivateZone
from cloud.aws.session import AwsSession
from milpa_ray.errors import CloudRefused, CloudUnavailable, Invalid
from milpa_ray.ports import DnsRecord
from tests.aws.account import Account, client
from tests.aws.moto_server import MotoServer
from tests.aws.proxy import AwsProxy

WEB = DnsRecord("web.default", "A", ("10.77.0.5", "10.77.0.6"), 30)
WEB_PORT = DnsRecord("_http._tcp.web.default", "SRV", ("1 1 ip-10-77-0-5.ec2.internal 80",), 30)
DB = DnsRecord("db.default", "A", ("10.77.0.7",), 60)


@pytest.fixture
def vpc_id(account: Account) -> Callable[[], Awaitable[str]]:
    async def answer() -> str:
        return account.vpc

    return answer


@pytest.fixture
def zone(
    aws: AwsSession, cluster: str, vpc_id: Callable[[], Awaitable[str]], moto: MotoServer
) -> Iterator[PrivateZone]:
    yield PrivateZone(aws, cluster, "uuid-1", vpc_id)
    clean(moto, cluster)


def clean(moto: MotoServer, cluster: str) -> None:
    """Removes the cluster's zones: others' tests may list all that moto has."""
    route53 = client("route53", moto.url)
    for found in zones(moto, cluster):
        pages = route53.get_paginator("list_resource_record_sets").paginate(HostedZoneId=found["Id"])
        sets = [r for page in pages for r in page["ResourceRecordSets"] if r["Type"] not in ("NS", "SOA")]
        if sets:
            batch = {"Changes": [{"Action": "DELETE", "ResourceRecordSet": record_set} for record_set in sets]}
            route53.change_resource_record_sets(HostedZoneId=found["Id"], ChangeBatch=batch)
        route53.delete_hosted_zone(Id=found["Id"])


def zones(moto: MotoServer, cluster: str) -> list[dict]:
    route53 = client("route53", moto.url)
    return [z for z in route53.list_hosted_zones()["HostedZones"] if z["Name"] == f"{cluster}.local."]


def records(moto: MotoServer, cluster: str) -> dict[tuple[str, str], list[str]]:
    """Values by name and type, without those of the zone itself."""
    (found,) = zones(moto, cluster)
    route53 = client("route53", moto.url)
    pages = route53.get_paginator("list_resource_record_sets").paginate(HostedZoneId=found["Id"])
    return {
        (r["Name"], r["Type"]): [v["Value"] for v in r["ResourceRecords"]]
        for page in pages
        for r in page["ResourceRecordSets"]
        if r["Type"] not in ("NS", "SOA")
    }


async def test_the_zone_is_made_private_for_the_vpc_and_filled(
    zone: PrivateZone, moto: MotoServer, account: Account, cluster: str
) -> None:
    await zone.set_records([WEB, WEB_PORT])
    (found,) = zones(moto, cluster)
    assert found["Config"]["PrivateZone"]
    route53 = client("route53", moto.url)
    assert [v["VPCId"] for v in route53.get_hosted_zone(Id=found["Id"])["VPCs"]] == [account.vpc]
    told = route53.list_tags_for_resource(
        ResourceType="hostedzone", ResourceId=found["Id"].removeprefix("/hostedzone/")
    )
    tags = {tag["Key"]: tag["Value"] for tag in told["ResourceTagSet"]["Tags"]}
    assert tags == {"milpa-cluster": cluster, "milpa-cluster-uuid": "uuid-1"}
    assert records(moto, cluster) == {
        (f"web.default.{cluster}.local.", "A"): ["10.77.0.5", "10.77.0.6"],
        (f"_http._tcp.web.default.{cluster}.local.", "SRV"): ["1 1 ip-10-77-0-5.ec2.internal 80"],
    }


async def test_records_come_change_and_go_in_one_request_each_time(
    zone: PrivateZone, moto: MotoServer, proxy: AwsProxy, cluster: str
) -> None:
    await zone.set_records([WEB, DB])
    before = len(proxy.seen)
    changed = DnsRecord("web.default", "A", ("10.77.0.9",), 30)
    await zone.set_records([changed, WEB_PORT])
    assert [seen.action for seen in proxy.seen[before:]] == ["ChangeResourceRecordSets"]
    assert records(moto, cluster) == {
        (f"web.default.{cluster}.local.", "A"): ["10.77.0.9"],
        (f"_http._tcp.web.default.{cluster}.local.", "SRV"): ["1 1 ip-10-77-0-5.ec2.internal 80"],
    }
    before = len(proxy.seen)
    await zone.set_records([WEB_PORT, changed])
    assert not proxy.seen[before:]


async def test_a_new_leader_finds_the_zone_and_its_records(
    zone: PrivateZone,
    aws: AwsSession,
    cluster: str,
    vpc_id: Callable[[], Awaitable[str]],
    moto: MotoServer,
    proxy: AwsProxy,
) -> None:
    await zone.set_records([WEB, DB])
    before = len(proxy.seen)
    await PrivateZone(aws, cluster, "uuid-1", vpc_id).set_records([WEB])
    assert [seen.action for seen in proxy.seen[before:]] == [
        "ListHostedZonesByName",
        "ListResourceRecordSets",
        "ChangeResourceRecordSets",
    ]
    assert len(zones(moto, cluster)) == 1
    assert list(records(moto, cluster)) == [(f"web.default.{cluster}.local.", "A")]


async def test_calls_while_one_is_under_way_become_one_for_the_newest(
    zone: PrivateZone, moto: MotoServer, proxy: AwsProxy, cluster: str
) -> None:
    await zone.set_records([])
    held = proxy.hold("ChangeResourceRecordSets")
    first = asyncio.create_task(zone.set_records([WEB]))
    await asyncio.to_thread(held.entered.wait, 10)
    waiting = [asyncio.create_task(zone.set_records([WEB, DB][:n])) for n in (0, 1, 2)]
    await asyncio.sleep(0)
    held.release()
    await asyncio.gather(first, *waiting)
    assert proxy.counts()["ChangeResourceRecordSets"] == 2
    assert len(records(moto, cluster)) == 2


async def test_more_records_than_a_request_or_a_page_holds(
    zone: PrivateZone, moto: MotoServer, proxy: AwsProxy, cluster: str
) -> None:
    many = [DnsRecord(f"s{i}.default", "A", (f"10.77.{i // 250}.{i % 250}",), 30) for i in range(620)]
    await zone.set_records(many)
    assert proxy.counts()["ChangeResourceRecordSets"] == 2
    before = len(proxy.seen)
    await zone.set_records(many[:300], look=True)
    actions = [seen.action for seen in proxy.seen[before:]]
    assert actions.count("ListResourceRecordSets") > 1
    assert len(records(moto, cluster)) == 300


async def test_what_others_changed_is_mended_by_a_look(zone: PrivateZone, moto: MotoServer, cluster: str) -> None:
    await zone.set_records([WEB])
    tamper(moto, cluster, "UPSERT", "web", "A", "192.0.2.1")
    tamper(moto, cluster, "UPSERT", "extra", "A", "192.0.2.1")
    tamper(moto, cluster, "UPSERT", "note", "TXT", '"not ours"')
    await zone.set_records([WEB], look=True)
    assert records(moto, cluster) == {
        (f"web.default.{cluster}.local.", "A"): ["10.77.0.5", "10.77.0.6"],
        (f"note.default.{cluster}.local.", "TXT"): ['"not ours"'],
    }


def tamper(moto: MotoServer, cluster: str, action: str, name: str, kind: str, value: str) -> None:
    (found,) = zones(moto, cluster)
    record_set = {
        "Name": f"{name}.default.{cluster}.local.",
        "Type": kind,
        "TTL": 5,
        "ResourceRecords": [{"Value": value}],
    }
    changes = {"Changes": [{"Action": action, "ResourceRecordSet": record_set}]}
    client("route53", moto.url).change_resource_record_sets(HostedZoneId=found["Id"], ChangeBatch=changes)


async def test_a_delete_of_what_is_not_as_it_was_left_looks_again(
    zone: PrivateZone, moto: MotoServer, proxy: AwsProxy, cluster: str
) -> None:
    await zone.set_records([WEB, DB])
    tamper(moto, cluster, "UPSERT", "db", "A", "192.0.2.1")
    proxy.fail("ChangeResourceRecordSets", "InvalidChangeBatch")  # moto forgives what Route53 does not
    await zone.set_records([WEB])
    assert list(records(moto, cluster)) == [(f"web.default.{cluster}.local.", "A")]


async def test_a_record_that_route53_refuses_is_told_and_not_tried_for_ever(zone: PrivateZone, proxy: AwsProxy) -> None:
    proxy.fail("ChangeResourceRecordSets", "InvalidChangeBatch", times=None)
    with pytest.raises(CloudRefused, match="InvalidChangeBatch"):
        await zone.set_records([WEB])
    assert proxy.counts()["ChangeResourceRecordSets"] == 1


async def test_after_a_lost_answer_the_zone_is_looked_at(
    zone: PrivateZone, moto: MotoServer, proxy: AwsProxy, cluster: str
) -> None:
    await zone.set_records([WEB])
    proxy.lose_response("ChangeResourceRecordSets")
    with pytest.raises(CloudUnavailable):
        await zone.set_records([DB])
    await zone.set_records([WEB_PORT])
    assert list(records(moto, cluster)) == [(f"_http._tcp.web.default.{cluster}.local.", "SRV")]


async def test_a_zone_whose_making_was_not_answered_is_not_made_twice(
    zone: PrivateZone, moto: MotoServer, proxy: AwsProxy, cluster: str
) -> None:
    proxy.lose_response("CreateHostedZone")
    with pytest.raises(CloudUnavailable):
        await zone.set_records([WEB])
    await zone.set_records([WEB])
    assert len(zones(moto, cluster)) == 1


async def test_a_zone_can_be_made_again_after_its_reference_was_used_up(
    zone: PrivateZone, moto: MotoServer, proxy: AwsProxy, cluster: str
) -> None:
    await zone.set_records([WEB])
    await zone.remove_zone()
    proxy.fail("CreateHostedZone", "HostedZoneAlreadyExists")  # moto forgets references, Route53 does not
    await zone.set_records([WEB])
    assert proxy.counts()["CreateHostedZone"] == 3
    assert len(records(moto, cluster)) == 1


async def test_another_zone_of_that_name_in_the_vpc_is_told(zone: PrivateZone, proxy: AwsProxy) -> None:
    proxy.fail("CreateHostedZone", "ConflictingDomainExists")
    with pytest.raises(Invalid, match="private zone of that name which is not of this cluster"):
        await zone.set_records([WEB])


async def test_the_zone_of_another_cluster_with_our_name_is_left_alone(
    zone: PrivateZone, aws: AwsSession, cluster: str, vpc_id: Callable[[], Awaitable[str]], moto: MotoServer
) -> None:
    other = PrivateZone(aws, cluster, "uuid-2", vpc_id)
    await other.set_records([DB])
    await zone.set_records([WEB])
    assert len(zones(moto, cluster)) == 2
    await zone.remove_zone()
    assert list(records(moto, cluster)) == [(f"db.default.{cluster}.local.", "A")]


async def test_a_zone_that_was_removed_under_us_is_made_again(
    zone: PrivateZone, aws: AwsSession, cluster: str, vpc_id: Callable[[], Awaitable[str]], moto: MotoServer
) -> None:
    await zone.set_records([WEB])
    await PrivateZone(aws, cluster, "uuid-1", vpc_id).remove_zone()
    await zone.set_records([WEB, DB])
    assert len(records(moto, cluster)) == 2


async def test_removing_the_zone_takes_every_record_along(zone: PrivateZone, moto: MotoServer, cluster: str) -> None:
    await zone.set_records([WEB, WEB_PORT, DB])
    tamper(moto, cluster, "UPSERT", "note", "TXT", '"not ours"')
    await zone.remove_zone()
    assert zones(moto, cluster) == []
    await zone.remove_zone()
