"""The checks tell good from bad, and each bad one names a remedy."""

from pathlib import Path

import pytest

from cloud.local import preflight
from cloud.local.lifecycle import LocalCloud

pytestmark = pytest.mark.integration


def test_this_machine_is_fit(cloud: LocalCloud) -> None:
    options = cloud.options
    found = preflight.check(options.bridge, options.subnet, str(cloud.directory))
    assert [problem for problem in found if not problem.ok] == []
    assert {"root", "runc", "namespaces", "overlayfs", "cgroups", "memory", "bridge", "addresses"} <= {
        problem.name for problem in found
    }


def test_a_bridge_and_a_range_of_somebody_else(cloud: LocalCloud) -> None:
    found = {problem.name: problem for problem in preflight.check(cloud.options.bridge, cloud.options.subnet, "/else")}
    for name in ("bridge", "addresses"):
        assert not found[name].ok
        assert "choose another" in found[name].remedy


def test_a_missing_tool_names_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = {problem.name: problem for problem in preflight.check()}
    assert found["nft"].remedy == "apt-get install nftables"
    assert not found["namespaces"].ok


def test_a_wrong_subnet_is_a_finding_not_a_traceback() -> None:
    (found,) = [problem for problem in preflight.check(subnet="10.0.0.300/24") if problem.name == "network"]
    assert "10.0.0.300" in found.detail
