"""The proxy before moto, seen by a plain boto3 client: what Milpa is proved against must itself behave as AWS."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from botocore.exceptions import ClientError, HTTPClientError

from tests.aws.account import Account, client
from tests.aws.faults import Effect
from tests.aws.moto_server import MotoServer
from tests.aws.proxy import AwsProxy

CUT = HTTPClientError


@pytest.fixture
def ec2(proxy: AwsProxy) -> Any:
    return client("ec2", proxy.url)


@pytest.fixture
def direct(moto: MotoServer) -> Any:
    """moto itself: the truth."""
    return client("ec2", moto.url)


def launch(ec2: Any, account: Account, token: str = "", **changes: Any) -> list[dict[str, Any]]:
    asked = {
        "ImageId": account.image,
        "InstanceType": "t3.nano",
        "MinCount": 1,
        "MaxCount": 1,
        "SubnetId": account.subnets["us-east-1a"],
        "UserData": "hello",
    }
    answer = ec2.run_instances(**({"ClientToken": token} if token else {}), **{**asked, **changes})
    return list(answer["Instances"])


def ids(instances: list[dict[str, Any]]) -> list[str]:
    return [instance["InstanceId"] for instance in instances]


def code_of(error: "pytest.ExceptionInfo[ClientError]") -> tuple[str, int]:
    told = error.value.response
    return told["Error"]["Code"], told["ResponseMetadata"]["HTTPStatusCode"]


def shown(ec2: Any, **asked: Any) -> list[str]:
    return [i["InstanceId"] for r in ec2.describe_instances(**asked)["Reservations"] for i in r["Instances"]]


# ------------------------------------------------------------ tokens


def test_the_same_token_and_call_give_the_same_instances(ec2: Any, account: Account, direct: Any) -> None:
    before = len(shown(direct, MaxResults=1000))
    first = launch(ec2, account, "twice", MaxCount=3)
    again = launch(ec2, account, "twice", MaxCount=3)
    assert len(set(ids(first))) == 3
    assert ids(again) == ids(first)
    assert [i["AmiLaunchIndex"] for i in again] == [0, 1, 2]
    assert [i["PrivateIpAddress"] for i in again] == [i["PrivateIpAddress"] for i in first]
    assert len(shown(direct, MaxResults=1000)) == before + 3


def test_the_same_token_and_another_call_are_a_mismatch(ec2: Any, account: Account) -> None:
    launch(ec2, account, "mismatch")
    for changes in ({"InstanceType": "t3.micro"}, {"MaxCount": 2}, {"UserData": "other"}):
        with pytest.raises(ClientError) as error:
            launch(ec2, account, "mismatch", **changes)
        assert code_of(error) == ("IdempotentParameterMismatch", 400)


def test_a_token_whose_instances_are_terminated_is_spent(ec2: Any, account: Account) -> None:
    made = ids(launch(ec2, account, "spent", MaxCount=2))
    ec2.terminate_instances(InstanceIds=made[:1])
    states = [i["State"]["Name"] for i in launch(ec2, account, "spent", MaxCount=2)]
    assert states == ["terminated", "running"], "a recall tells the present states"
    ec2.terminate_instances(InstanceIds=made)
    with pytest.raises(ClientError) as error:
        launch(ec2, account, "spent", MaxCount=2)
    assert code_of(error) == ("IdempotentInstanceTerminated", 400)


def test_calls_with_one_token_at_the_same_time_launch_once(proxy: AwsProxy, account: Account) -> None:
    client("ec2", proxy.url)  # boto3's own loading is not thread-safe
    clients = [client("ec2", proxy.url) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda one: ids(launch(one, account, "race")), clients))
    assert len({instance for instances in made for instance in instances}) == 1


def test_a_refused_launch_leaves_its_token_free(ec2: Any, proxy: AwsProxy, account: Account) -> None:
    proxy.shortage()
    with pytest.raises(ClientError):
        launch(ec2, account, "free")
    proxy.relent()
    assert len(launch(ec2, account, "free", InstanceType="t3.small")) == 1


def test_a_token_over_64_characters_is_refused(ec2: Any, account: Account) -> None:
    with pytest.raises(ClientError) as error:
        launch(ec2, account, "x" * 65)
    assert code_of(error) == ("InvalidParameterValue", 400)


# ------------------------------------------------------------ throttling


def test_calls_over_the_limit_are_refused_as_ec2_refuses(ec2: Any, proxy: AwsProxy, account: Account) -> None:
    codes = []
    for number in range(8):
        try:
            launch(ec2, account, f"burst-{number}")
        except ClientError as error:
            codes.append((error.response["Error"]["Code"], error.response["ResponseMetadata"]["HTTPStatusCode"]))
    assert 1 <= len(codes) <= 3
    assert set(codes) == {("RequestLimitExceeded", 503)}
    assert proxy.counts()["RunInstances"] == 8
    assert sum(seen.code == "RequestLimitExceeded" for seen in proxy.seen) == len(codes)


def test_route53_is_throttled_in_its_own_words(proxy: AwsProxy) -> None:
    route53 = client("route53", proxy.url)

    def hurry() -> None:
        for _ in range(50):
            route53.list_hosted_zones()

    with pytest.raises(ClientError) as error:
        hurry()
    assert code_of(error) == ("Throttling", 400)
    assert set(proxy.counts()) == {"ListHostedZones"}


# ------------------------------------------------------------ scripted faults


def test_any_code_for_the_nth_call(ec2: Any, proxy: AwsProxy) -> None:
    proxy.fail("DescribeVpcs", "InternalError", skip=1, times=2)
    codes = []
    for _ in range(5):
        try:
            ec2.describe_vpcs()
            codes.append("")
        except ClientError as error:
            codes.append(error.response["Error"]["Code"])
    assert codes == ["", "InternalError", "InternalError", "", ""]
    assert [seen.code for seen in proxy.seen] == codes


@pytest.mark.parametrize(
    ("service", "operation", "action"),
    [("dynamodb", "list_tables", "ListTables"), ("elb", "describe_load_balancers", "DescribeLoadBalancers")],
)
def test_errors_are_worded_as_each_service_words_them(
    proxy: AwsProxy, service: str, operation: str, action: str
) -> None:
    rule = proxy.fail(action, "AccessDeniedException", status=403)
    with pytest.raises(ClientError) as error:
        getattr(client(service, proxy.url), operation)()
    assert code_of(error) == ("AccessDeniedException", 403)
    assert rule.struck == 1
    getattr(client(service, proxy.url), operation)()


def test_a_lost_response_took_effect(ec2: Any, proxy: AwsProxy, account: Account, direct: Any) -> None:
    before = set(shown(direct, MaxResults=1000))
    proxy.lose_response("RunInstances")
    with pytest.raises(CUT):
        launch(ec2, account, "lost")
    made = set(shown(direct, MaxResults=1000)) - before
    assert len(made) == 1
    assert set(ids(launch(ec2, account, "lost"))) == made
    assert [seen.code for seen in proxy.seen] == ["lost", ""]


def test_a_lost_request_had_no_effect(ec2: Any, proxy: AwsProxy, account: Account, direct: Any) -> None:
    before = shown(direct, MaxResults=1000)
    rule = proxy.hold("RunInstances", Effect.LOSE_REQUEST)
    failed: list[Exception] = []

    def call() -> None:
        try:
            launch(ec2, account, "never")
        except CUT as error:
            failed.append(error)

    caller = threading.Thread(target=call)
    caller.start()
    assert rule.entered.wait(10)
    assert caller.is_alive(), "it is held"
    rule.release()
    caller.join(10)
    assert failed
    assert shown(direct, MaxResults=1000) == before


# ------------------------------------------------------------ capacity


def test_no_capacity_by_type_zone_and_market(ec2: Any, proxy: AwsProxy, account: Account) -> None:
    proxy.shortage(instance_type="t3.*", zone="us-east-1a", spot=False)
    with pytest.raises(ClientError) as error:
        launch(ec2, account)
    assert code_of(error) == ("InsufficientInstanceCapacity", 500)
    assert launch(ec2, account, SubnetId=account.subnets["us-east-1b"])
    assert launch(ec2, account, InstanceType="t2.nano")
    spot = launch(ec2, account, InstanceMarketOptions={"MarketType": "spot"})
    assert spot[0]["InstanceLifecycle"] == "spot"


def test_a_launch_gets_what_is_left_between_its_counts(ec2: Any, proxy: AwsProxy, account: Account) -> None:
    proxy.shortage(left=3)
    assert len(launch(ec2, account, MaxCount=2)) == 2
    with pytest.raises(ClientError):
        launch(ec2, account, MinCount=2, MaxCount=2)
    assert len(launch(ec2, account, MaxCount=5)) == 1
    with pytest.raises(ClientError):
        launch(ec2, account)


# ------------------------------------------------------------ lag


def test_an_instance_is_shown_only_after_a_while(
    ec2: Any, proxy: AwsProxy, account: Account, direct: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(proxy.lag, "_clock", lambda: now[0])
    proxy.lag.hide_next(60.0)
    hidden, plain = ids(launch(ec2, account, MaxCount=2))
    (alone,) = ids(launch(ec2, account))
    assert hidden not in shown(ec2, MaxResults=1000)
    assert {plain, alone} <= set(shown(ec2, MaxResults=1000))
    assert hidden in shown(direct, MaxResults=1000)
    with pytest.raises(ClientError) as error:
        shown(ec2, InstanceIds=[hidden, plain])
    assert code_of(error) == ("InvalidInstanceID.NotFound", 400)
    ec2.create_tags(Resources=[hidden], Tags=[{"Key": "a", "Value": "b"}])
    proxy.lag.refuse_changes = True
    with pytest.raises(ClientError):
        ec2.create_tags(Resources=[hidden], Tags=[{"Key": "a", "Value": "b"}])
    now[0] += 61.0
    assert hidden in shown(ec2, MaxResults=1000)
    assert shown(ec2, InstanceIds=[hidden]) == [hidden]
