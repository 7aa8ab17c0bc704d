"""Where credentials come from, and what a call does when nobody answers."""

import asyncio
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from cloud.aws.metadata import NotOnEc2, own_vpc
from cloud.aws.session import AwsSession, Credentials
from milpa_ray.errors import CloudNotReady, CloudUnavailable

YML = Credentials("YMLKEY", "ymlsecret")


@pytest.mark.parametrize(
    ("env", "told"),
    [
        ({}, {"aws_access_key_id": "YMLKEY", "aws_secret_access_key": "ymlsecret"}),
        (
            {"AWS_ACCESS_KEY_ID": "ENVKEY", "AWS_SECRET_ACCESS_KEY": "envsecret", "AWS_SESSION_TOKEN": "t"},
            {"aws_access_key_id": "ENVKEY", "aws_secret_access_key": "envsecret", "aws_session_token": "t"},
        ),
        ({"AWS_SESSION_TOKEN": "t"}, {"aws_access_key_id": "YMLKEY", "aws_secret_access_key": "ymlsecret"}),
    ],
)
def test_the_environment_wins_over_server_yml(env: dict[str, str], told: dict[str, str]) -> None:
    assert YML.arguments(env) == told


def test_without_keys_the_sdk_looks_by_itself() -> None:
    assert Credentials().arguments({}) == {}


def test_a_secret_is_not_shown() -> None:
    assert "ymlsecret" not in repr(YML)


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """An endpoint that nobody listens at, and no credentials."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("nowhere")
@pytest.mark.parametrize(("variable", "value"), [("AWS_ENDPOINT_URL", "nonsense"), ("AWS_ENDPOINT_URL_EC2", "http://")])
async def test_an_endpoint_that_is_no_url_is_told_with_its_variable(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    session = AwsSession("us-east-1", YML)
    try:
        with pytest.raises(CloudNotReady, match=f"^{variable}: '{value}'"):
            await session.call("ec2", "DescribeVpcs")
    finally:
        session.close()


@pytest.mark.usefixtures("nowhere")
async def test_a_page_with_status_200_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    class Page(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html><body>Welcome</body></html>")

        def log_message(self, *_told: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Page) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        session = AwsSession("us-east-1", YML)
        try:
            with pytest.raises(CloudUnavailable, match="sts GetCallerIdentity"):
                await session.call("sts", "GetCallerIdentity")
        finally:
            session.close()
            thread.join()


@pytest.mark.usefixtures("nowhere")
async def test_an_endpoint_that_does_not_answer_is_tried_once_and_retryable() -> None:
    session = AwsSession("us-east-1", YML)
    try:
        with pytest.raises(CloudUnavailable, match="DescribeVpcs"):
            await session.call("ec2", "DescribeVpcs")
    finally:
        session.close()


@pytest.mark.usefixtures("nowhere")
async def test_missing_credentials_are_told_with_a_remedy() -> None:
    session = AwsSession("us-east-1")
    try:
        with pytest.raises(CloudNotReady, match="accessKeyID"):
            await session.call("ec2", "DescribeVpcs")
    finally:
        session.close()


@pytest.mark.usefixtures("nowhere")
async def test_a_closed_session_sends_nothing() -> None:
    session = AwsSession("us-east-1", YML)
    session.close()
    with pytest.raises(CloudUnavailable, match="closed"):
        await session.call("ec2", "DescribeVpcs")


class _Metadata(BaseHTTPRequestHandler):
    """IMDSv2 of an instance in vpc-77: without a token it answers nothing."""

    def do_PUT(self) -> None:
        self._answer("secret-token" if self.path == "/latest/api/token" else None)

    def do_GET(self) -> None:
        paths = {
            "/latest/meta-data/mac": "02:00:00:00:00:01",
            "/latest/meta-data/network/interfaces/macs/02:00:00:00:00:01/vpc-id": "vpc-77",
        }
        self._answer(paths.get(self.path) if self.headers["X-aws-ec2-metadata-token"] == "secret-token" else None)

    def _answer(self, text: str | None) -> None:
        self.send_response(200 if text else 401)
        self.end_headers()
        self.wfile.write((text or "").encode())

    def log_message(self, *_args: object) -> None:
        pass


async def test_the_own_vpc_is_read_from_the_metadata_service() -> None:
    server = HTTPServer(("127.0.0.1", 0), _Metadata)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    env = {"AWS_EC2_METADATA_SERVICE_ENDPOINT": f"http://127.0.0.1:{server.server_port}/"}
    try:
        assert await asyncio.to_thread(own_vpc, env) == "vpc-77"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    "env",
    [{"AWS_EC2_METADATA_DISABLED": "true"}, {"AWS_EC2_METADATA_SERVICE_ENDPOINT": "http://127.0.0.1:9"}],
)
def test_away_from_ec2_there_is_none(env: dict[str, str]) -> None:
    with pytest.raises(NotOnEc2):
        own_vpc(env)
