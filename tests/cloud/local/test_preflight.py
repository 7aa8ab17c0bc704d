"""The checks tell good from bad, and each bad one names a remedy."""

import subprocess
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


def test_a_firewall_that_drops_forwarded_packets_is_found() -> None:
    chains = [
        ("ip filter", "FORWARD", "forward", "drop"),
        ("inet mild", "forward", "forward", "accept"),
        ("ip6 filter", "FORWARD", "forward", "drop"),
        ("ip other", "INPUT", "input", "drop"),
    ]
    rules = "".join(
        f"add table {table}\nadd chain {table} {name} {{ type filter hook {hook} priority 0; policy {policy}; }}\n"
        for table, name, hook, policy in chains
    )
    # In a network namespace of its own, so that nobody's packets are dropped.
    command = ["unshare", "--net", "sh", "-c", "nft -f - && nft -j list chains"]
    listing = subprocess.run(command, input=rules, capture_output=True, text=True, check=True).stdout
    assert preflight.dropping_chains(listing) == ["ip filter FORWARD"]


def test_a_wrong_subnet_is_a_finding_not_a_traceback() -> None:
    (found,) = [problem for problem in preflight.check(subnet="10.0.0.300/24") if problem.name == "network"]
    assert "10.0.0.300" in found.detail
