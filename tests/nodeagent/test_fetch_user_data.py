"""The command that the node image runs before the agent."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from milpa_ray.userdata import UserData
from nodeagent.imds import ENDPOINT_VARIABLE
from tests.nodeagent.metadata_server import MetadataServer, metadata_server

USER_DATA = UserData("c", "b").pack()


@pytest.fixture
def server() -> Iterator[MetadataServer]:
    with metadata_server() as found:
        yield found


def _fetch(endpoint: str, file: Path, wait_s: float = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nodeagent.fetch_user_data", str(file), "--wait-s", str(wait_s)]
    environment = {**os.environ, ENDPOINT_VARIABLE: endpoint}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30)


def test_writes_a_file_that_only_root_reads(server: MetadataServer, tmp_path: Path) -> None:
    server.answers["user-data"] = USER_DATA
    file = tmp_path / "user-data"
    done = _fetch(server.endpoint, file)
    assert (done.returncode, done.stderr) == (0, "")
    assert file.read_bytes() == USER_DATA
    assert file.stat().st_mode & 0o777 == 0o600


def test_asks_nobody_when_the_file_is_there(server: MetadataServer, tmp_path: Path) -> None:
    file = tmp_path / "user-data"
    file.write_bytes(USER_DATA)
    assert _fetch(server.endpoint, file).returncode == 0
    assert server.asked == 0


@pytest.mark.parametrize(
    ("answers", "reason"),
    [({}, "launched without user data"), ({"user-data": b"#!/bin/sh"}, "not Milpa's user data")],
)
def test_refuses_what_is_not_milpas(
    server: MetadataServer, tmp_path: Path, answers: dict[str, bytes], reason: str
) -> None:
    server.answers |= answers
    file = tmp_path / "user-data"
    done = _fetch(server.endpoint, file)
    assert done.returncode == 1
    assert reason in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not file.exists()


def test_gives_up_with_one_line(tmp_path: Path) -> None:
    done = _fetch("http://127.0.0.1:9", tmp_path / "user-data")
    assert done.returncode == 1
    assert done.stderr.startswith("fetch_user_data: http://127.0.0.1:9/latest/api/token: ")
    assert len(done.stderr.splitlines()) == 1
