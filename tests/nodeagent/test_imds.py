"""The metadata client against a server of version 2, and against everything else that may answer at that address."""

import socket
from collections.abc import Iterator

import pytest

from nodeagent.imds import ENDPOINT_VARIABLE, InstanceMetadata, MetadataUnavailable
from tests.nodeagent.metadata_server import MetadataServer, metadata_server


@pytest.fixture
def server() -> Iterator[MetadataServer]:
    with metadata_server() as found:
        found.answers["meta-data/instance-id"] = b"i-1"
        yield found


def test_reads_with_one_token(server: MetadataServer) -> None:
    metadata = InstanceMetadata(server.endpoint)
    assert metadata.read("meta-data/instance-id") == b"i-1"
    assert metadata.read("meta-data/instance-id") == b"i-1"
    assert len(server.tokens) == 1


def test_nothing_of_that_name_is_none(server: MetadataServer) -> None:
    assert InstanceMetadata(server.endpoint).read("meta-data/spot/instance-action") is None


def test_takes_a_new_token_when_its_own_is_refused(server: MetadataServer) -> None:
    metadata = InstanceMetadata(server.endpoint)
    metadata.read("meta-data/instance-id")
    server.tokens.clear()
    assert metadata.read("meta-data/instance-id") == b"i-1"


def test_asks_no_proxy(server: MetadataServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert InstanceMetadata(server.endpoint).read("meta-data/instance-id") == b"i-1"


def test_endpoint_of_the_environment(server: MetadataServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENDPOINT_VARIABLE, server.endpoint + "/")
    assert InstanceMetadata().read("meta-data/instance-id") == b"i-1"


def test_says_what_did_not_answer() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(MetadataUnavailable, match=rf"{endpoint}/latest/api/token: .*refused"):
            InstanceMetadata(endpoint).read("user-data")


def test_a_silent_service_is_unavailable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(MetadataUnavailable, match="timed out"):
            InstanceMetadata(endpoint, timeout_s=0.2).read("user-data")


def test_a_wrong_endpoint_is_unavailable() -> None:
    with pytest.raises(MetadataUnavailable, match="nonsense"):
        InstanceMetadata("nonsense").read("user-data")
