"""The API server of the bench: one moto for all tests of a run, behind a proxy that each test scripts for itself."""

import json
import secrets
from collections.abc import Iterator
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from cloud.aws.session import AwsSession
from cloud.aws.throttle import Pace
from tests.aws.account import KEYS, REGION, Account, furnish
from tests.aws.moto_server import MotoServer
from tests.aws.proxy import AwsProxy


@pytest.fixture(scope="session")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MotoServer]:
    """An AWS API server."""
    server = MotoServer(tmp_path_factory.mktemp("moto") / "moto.log")
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.fixture(scope="session")
def account(moto: MotoServer) -> Account:
    """A VPC, subnets and an image in it."""
    return furnish(moto.url, IPv4Network("10.77.0.0/20"))


@pytest.fixture
def proxy(moto: MotoServer) -> Iterator[AwsProxy]:
    """A proxy before it, with full buckets and nothing scripted."""
    made = AwsProxy(moto.url).start()
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture
def aws(proxy: AwsProxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[AwsSession]:
    """Our session, which calls the proxy; neither of them limits rates. All that it called is in the IAM policy."""
    proxy.throttle = None
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    session = AwsSession(REGION, pace=Pace({}))
    try:
        yield session
    finally:
        session.close()
    called = {f"{seen.service}:{seen.action}" for seen in proxy.seen if seen.service != "sts"}
    assert called <= allowed_actions(), "docs/iam-policy.json does not allow what was called"


def allowed_actions() -> set[str]:
    """Of the IAM policy that Milpa's users are given."""
    policy = json.loads((Path(__file__).parents[2] / "docs" / "iam-policy.json").read_text())
    return {action for statement in policy["Statement"] for action in statement["Action"]}


@pytest.fixture
def cluster() -> str:
    """A cluster's name that no other test has."""
    return f"t{secrets.token_hex(4)}"
