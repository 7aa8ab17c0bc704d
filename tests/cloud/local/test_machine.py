"""What an instance's processes start with."""

from pathlib import Path

import pytest

from cloud.local import machine

pytestmark = pytest.mark.integration


def test_the_hosts_aws_variables_are_none_of_an_instances(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its agent would watch for no interruption, or have the host's keys."""
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("HTTPS_PROXY", "http://192.0.2.1:1")
    spec = machine.BootSpec("i-1", tmp_path, "192.0.2.2/24", "192.0.2.1", "host", ["true"], {"MADE": "for it"})
    booting = machine.spawn(spec)
    try:
        environment = Path(f"/proc/{booting.pid}/environ").read_bytes().split(b"\0")
    finally:
        booting.abandon()
    assert [each for each in environment if each.startswith(b"AWS_")] == []
    assert {b"MILPA_INSTANCE=i-1", b"MADE=for it", b"HTTPS_PROXY=http://192.0.2.1:1"} <= set(environment)
