"""``explain`` by its command line: as a price calculator without a server, and for what a server has."""

import socket
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml

from cloud.catalog import load_catalog, refreshed_file
from cloud.catalog_file import InstanceType, Offer, RegionFacts, write
from tests.cli.cluster import Cluster
from tests.cli.explaining import cells, explained, run
from tests.cli.running import COMMAND, environment, milpactl_here

EXAMPLES = Path(__file__).parents[2] / "examples"
HERE = ("--region", "us-east-1")
NOWHERE = ("--disable-tls", "--endpoints", "127.0.0.1:1")


def names(types: list[dict[str, Any]]) -> list[str]:
    return [str(found["instanceType"]) for found in types]


# ---------------------------------------------------------------- without a server


def test_a_tenth_of_a_core_is_a_nano_by_its_baseline() -> None:
    ran = run("--cpu", "0.1", *HERE)
    assert (ran.code, ran.err) == (0, "")
    assert cells(ran, "Chosen:") == ["t3a.nano (2 vCPU, 0.5 GiB)"]
    assert cells(ran, "CPU credits:")[0].startswith("standard: its CPU baseline is 0.1 of 2 cores")
    assert cells(ran, "t3a.nano") == ["$0.0047", "$3.43"]
    assert cells(ran, "CPU above baseline") == ["$0.0000", "$0.00"]
    assert cells(ran, "root volume")[:2] == ["$0.000548", "$0.40"]
    assert cells(ran, "public IPv4")[:2] == ["$0.0050", "$3.65"]
    assert cells(ran, "total")[:2] == ["$0.010248", "$7.48"]
    assert cells(ran, "t3.nano")[:1] == ["2"]
    assert "rices of us-east-1, 2026-07-20 (as shipped), " in ran.out


def test_the_manual_page_shows_what_it_prints() -> None:
    page = (EXAMPLES.parent / "docs" / "milpactl.md").read_text()
    shown = page.partition("$ milpactl explain --cpu 0.1 --region us-east-1\n")[2].partition("```")[0]
    printed = run("--cpu", "0.1", *HERE).out.splitlines()
    assert len(shown.splitlines()) > 20
    assert [line for line in shown.splitlines() if line.strip() != "..." and line not in printed] == []


def test_two_dedicated_cores_are_a_c6a() -> None:
    found = explained("--cpu", "2", "--memory", "2Gi", "--dedicated", *HERE)
    best = found["chosen"]
    assert (best["instanceType"], best["price"], best["cpuCredits"]) == ("c6a.large", 0.0765, "")
    assert names(found["next"]) == ["c5a.large", "c6i.large", "c5.large", "m5a.large", "c5ad.large"]
    volume = 5 * 0.08 / 730
    assert best["cost"] == {
        "instance": 0.0765,
        "surcharge": 0.0,
        "volume": pytest.approx(volume),
        "publicIPv4": 0.005,
        "total": pytest.approx(0.0765 + volume + 0.005),
        "totalPerMonth": pytest.approx((0.0765 + 0.005) * 730 + 5 * 0.08),
    }
    reasons = {found["instanceType"]: found["reasons"] for found in found["others"]}
    assert reasons["t3.large"] == [
        {"constraint": "dedicated_cpu", "message": "shared CPU (burstable), dedicated was asked"}
    ]
    assert reasons["c7i-flex.large"][0]["message"] == "shared CPU (flex), dedicated was asked"
    assert reasons["c7a.medium"] == [{"constraint": "cpu", "message": "1 vCPU of 2 asked"}]
    assert reasons["m6a.large"] == []


def test_every_type_of_the_region_is_told_of_once() -> None:
    found = explained("--cpu", "2", "--gpu", "1", *HERE)
    told = [found["chosen"], *found["next"], *found["others"]]
    assert sorted(names(told)) == sorted(load_catalog("us-east-1").names)
    assert all(bool(entry["reasons"]) != entry["fits"] for entry in told)
    costs = [entry["cost"]["total"] for entry in told if entry["fits"]]
    assert costs == sorted(costs)
    assert all(entry["cost"] is None for entry in told if not entry["fits"])


def test_more_than_the_baseline_costs_a_surcharge() -> None:
    ran = run("--cpu", "0.5", *HERE)
    assert cells(ran, "Chosen:")[0].startswith("t3a.small")
    assert cells(ran, "CPU credits:")[0].startswith("unlimited")
    assert cells(ran, "CPU above baseline") == ["$0.0050", "$3.65", "0.1 cores at $0.0500 per core-hour"]
    within = explained("--cpu", "0.3", "--sustained=false", *HERE)
    assert (within["chosen"]["instanceType"], within["chosen"]["cpuCredits"]) == ("t3a.small", "standard")
    (nano,) = [found for found in within["others"] if found["instanceType"] == "t3a.nano"]
    assert nano["reasons"][0]["message"] == "CPU baseline 0.1 of 0.3 asked with sustainedCPU false"
    always = explained("--cpu", "0.1", "--sustained", "TRUE", *HERE)
    assert (always["chosen"]["instanceType"], always["chosen"]["cpuCredits"]) == ("t3a.nano", "unlimited")


def test_gpus_by_name() -> None:
    ran = run("--gpu", "1", "--gpu-name", "t4", *HERE)
    assert cells(ran, "Chosen:") == ["g4dn.xlarge (4 vCPU, 16 GiB, 1 NVIDIA T4)"]
    assert "another GPU, or none" in ran.out
    reasons = {
        found["instanceType"]: [reason["message"] for reason in found["reasons"]]
        for found in explained("--gpu", "2", "--gpu-name", "T4", *HERE)["others"]
    }
    assert reasons["g5.2xlarge"] == ["1 NVIDIA A10G of 2 asked", "NVIDIA A10G, not T4"]
    assert reasons["c6a.large"] == ["no GPU of 2 asked", "no GPU, not T4"]


def test_spot_zone_and_disk() -> None:
    found = explained(
        *("--cpu", "2", "--memory", "4Gi", "--spot", "Preferred", "--zone", "us-east-1b", "--volume-size", "60Gi"),
        *("--instance-type", "c5*", "--private-ip-only", *HERE),
    )
    best = found["chosen"]
    assert found["request"]["spot"] is True
    assert best["zones"] == ["us-east-1b"]
    assert best["instanceType"].startswith("c5")
    assert best["price"] < best["priceOnDemand"]
    assert best["cost"]["volume"] == pytest.approx(60 * 0.08 / 730)
    assert best["cost"]["publicIPv4"] == 0.0
    assert best["cost"]["total"] == pytest.approx(best["price"] + best["cost"]["surcharge"] + 60 * 0.08 / 730)
    ran = run("--cpu", "2", "--spot", "always", *HERE)
    assert cells(ran, "Capacity:")[0].startswith("spot, ")
    assert "Shipped spot prices are estimates." in ran.out


def test_spot_that_is_only_preferred_gives_way() -> None:
    region = ("--region", "us-gov-west-1")  # nobody knows its spot prices, nor its zones
    found = explained("--cpu", "2", "--dedicated", "--spot", "preferred", *region)
    assert found["noSpot"]["reason"] == "NoSpot"
    assert (found["request"]["spot"], found["fits"], found["chosen"]["zones"]) == (False, True, [])
    ran = run("--cpu", "2", "--spot", "preferred", *region)
    assert ran.code == 0
    assert "on demand instead, as spot is only preferred" in ran.out
    assert cells(ran, "Zones:") == ["unknown which zones of us-gov-west-1 have it"]
    assert explained("--cpu", "2", "--spot", "always", *region, code=1)["refusal"]["reason"] == "NoSpot"


def test_nothing_fits() -> None:
    ran = run("--memory", "40Ti", *HERE)
    why = "no instance type fits: largest memory in us-east-1 is 32768 GiB (u7in-32tb.224xlarge), 40960 GiB was asked"
    assert (ran.code, ran.err) == (1, f"Error: {why}\n")
    assert cells(ran, "Chosen:") == ["nothing"]
    assert cells(ran, "Reason:") == [f"NoInstanceTypeFits: {why}"]
    assert cells(ran, "843") == [
        "too little memory",
        "u7in-32tb.224xlarge, u7in-24tb.224xlarge, u7in-16tb.224xlarge, ...",
    ]
    assert "COST" not in ran.out
    found = explained("--memory", "40Ti", *HERE, code=1)
    assert (found["fits"], found["chosen"], found["next"]) == (False, None, [])
    assert found["refusal"] == {"reason": "NoInstanceTypeFits", "message": why, "temporary": False}


def test_all_lists_every_type_with_its_reason() -> None:
    ran = run("--cpu", "2", "--memory", "2Gi", "--all", *HERE)
    rows = {line.split()[0]: line for line in ran.out.partition("RESULT\n")[2].splitlines() if line.startswith("  ")}
    assert set(rows) == set(load_catalog("us-east-1").names)
    assert rows["a1.large"].endswith("arm64, not amd64, the default")
    assert rows["c5.large"].endswith("fits, but costs $0.090548 with all")
    assert rows["t2.nano"].endswith("0.5 GiB memory of 2 asked; 1 vCPU of 2 asked")
    assert run("--cpu", "2", "--memory", "2Gi", "-owide", *HERE).out == ran.out


def test_yaml_says_the_same_as_json() -> None:
    small = ("--cpu", "2", "--region", "ap-southeast-7")
    assert yaml.safe_load(run(*small, "-o", "yaml").out) == explained(*small)


@pytest.mark.parametrize("region", ["eu-west-1", "us-gov-east-1", "ap-southeast-7", "mx-central-1"])
def test_other_regions_also_those_whose_zones_nobody_knows(region: str) -> None:
    found = explained("--cpu", "0.5", "--memory", "256Mi", "--region", region)
    assert (found["region"], found["fits"]) == (region, True)


# ---------------------------------------------------------------- the region


def test_without_a_server_the_region_is_us_east_1_and_that_is_said() -> None:
    ran = run("--cpu", "2", "--cert-dir", "/nonexistent")  # without certificates none is asked
    assert ran.code == 0
    assert "rices of us-east-1," in ran.out
    assert ran.err.startswith("No server says its region: these are prices of us-east-1 (--region or MILPA_REGION")


def test_the_region_of_the_environment_and_of_the_flag() -> None:
    env = {"MILPA_REGION": "eu-west-1"}
    ran = run("--cpu", "2", env=env)
    assert "Warning: prices of eu-west-1, 2025-04-04 (as shipped), " in ran.out
    assert " days old: they may have changed; 'milpa catalog refresh --region eu-west-1' fetches today's." in ran.out
    assert ran.err == ""
    assert "rices of us-east-1," in run("--cpu", "2", *HERE, env=env).out
    ran = run("--cpu", "2", "--region", "")
    assert (ran.code, ran.err) == (2, "Error: --region: has no value; give one, or leave the flag out\n")


def test_servers_of_the_environment_that_do_not_answer_are_no_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections and says nothing
        for endpoint in ("127.0.0.1:1", f"127.0.0.1:{silent.getsockname()[1]}"):
            began = time.monotonic()
            ran = run("--cpu", "2", "--disable-tls", env={"MILPA_ENDPOINTS": endpoint})
            assert ran.code == 0, ran.err
            assert ran.err.startswith("No server says its region: these are prices of us-east-1 (--region or")
            assert time.monotonic() - began < 4


def test_a_region_that_nobody_can_refresh_is_not_to_be_refreshed() -> None:
    ran = run("--cpu", "2", "--region", "cn-north-1")
    assert ran.code == 2
    assert "'cn-north-1' is unknown" in ran.err
    assert "refresh" not in ran.err
    assert "refresh" not in run("--cpu", "2", "--region", "us-gov-west-1").out


def test_the_region_of_the_server_with_its_defaults(cluster: Cluster) -> None:
    ran = run("--cpu", "2", *cluster.flags)
    assert ran.err == ""
    assert "rices of us-west-2," in ran.out
    assert "8 GiB gp3" in ran.out


def test_a_server_that_was_named_and_does_not_answer_is_an_error() -> None:
    ran = run("--cpu", "2", *NOWHERE)
    assert (ran.code, ran.out) == (1, "")
    assert "Error: no API server answers" in ran.err
    ran = run("--cpu", "2", "--endpoints", "127.0.0.1:1", "--cert-dir", "/nonexistent")
    assert (ran.code, ran.out) == (1, "")
    assert "Error: loading TLS configuration from /nonexistent" in ran.err


def test_newer_prices_of_this_machine_count(tmp_path: Path) -> None:
    path = refreshed_file(tmp_path / "catalog", "us-east-1")
    path.parent.mkdir()
    offers = {"m5.large": Offer(0.1, 0.04, {"us-east-1a": 0.03, "us-east-1b": 0.02})}
    types = {"m5.large": InstanceType("m5.large", 5, 2, 8192, "amd64", baseline=2)}
    with path.open("wb") as file:
        write(file, types, [RegionFacts("us-east-1", date(2026, 11, 22), "test", offers)])
    env = {"MILPA_HOME": str(tmp_path)}
    ran = run("--cpu", "2", "--spot", "always", *HERE, env=env)
    assert (ran.code, ran.err) == (0, "")
    assert f"rices of us-east-1, 2026-11-22 (refreshed, {path}), " in ran.out
    assert cells(ran, "Zones:") == ["us-east-1b"]
    assert cells(ran, "m5.large")[0] == "$0.0200"
    path.write_bytes(b"broken")
    ran = run("--cpu", "2", *HERE, env=env)
    assert ran.code == 0
    assert ran.err.startswith("Warning: refreshed catalogue not used: ")


# ---------------------------------------------------------------- manifests


def test_every_pod_and_template_of_the_manifests() -> None:
    found = explained("-f", str(EXAMPLES / "sizes.yaml"), *HERE)
    assert found["kind"] == "List"
    told = [(item["object"]["name"], item["chosen"]["instanceType"], item["replicas"]) for item in found["items"]]
    assert told == [
        ("tenth-of-a-core", "t3a.nano", 1),
        ("dedicated", "c6a.large", 1),
        ("gpus-on-spot", "g4dn.xlarge", 3),
    ]
    ran = run("-f", str(EXAMPLES / "sizes.yaml"), *HERE)
    assert [line.split()[1] for line in ran.out.splitlines() if line.startswith("Object:")] == [
        "pod/tenth-of-a-core",
        "pod/dedicated",
        "deployment/gpus-on-spot",
    ]
    assert cells(ran, "3 replicas")[0] == "$0.602806"


POD = """
apiVersion: v1
kind: {kind}
metadata: {{name: {name}}}
spec: {spec}
"""
UNITS = "units: [{name: main, image: img}]"


def test_one_of_several_does_not_fit() -> None:
    good = POD.format(kind="Pod", name="good", spec=f"{{resources: {{cpu: 1}}, {UNITS}}}")
    bad = POD.format(kind="Pod", name="bad", spec=f"{{instanceType: c5.larg, {UNITS}}}")
    service = POD.format(kind="Service", name="svc", spec="{ports: [{port: 80}], selector: {matchLabels: {a: b}}}")
    ran = run("-f", "-", *HERE, stdin=f"{good}---{bad}---{service}")
    assert ran.code == 1
    assert ran.err == (
        "Error: pod/bad: instance type 'c5.larg' is not offered in us-east-1: name another in spec.instanceType; "
        "did you mean 'c5.large'?\n"
    )
    assert "Object:       pod/good" in ran.out
    ran = run("-f", "-", *HERE, stdin=service)
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == "Error: -: there is no Pod, ReplicaSet or Deployment to explain\n"
    wrong = POD.format(kind="Pod", name="p", spec=f"{{resources: {{cpu: 1x}}, {UNITS}}}")
    ran = run("-f", "-", *HERE, stdin=wrong)
    assert ran.code == 1
    assert 'Pod "p": spec.resources.cpu' in ran.err


def test_a_pod_that_asks_for_nothing_gets_the_default() -> None:
    pod = POD.format(kind="Pod", name="p", spec=f"{{{UNITS}}}")
    ran = run("-f", "-", *HERE, stdin=pod)
    assert cells(ran, "Asked:")[0].startswith("nothing of the instance, so type t3.nano")
    assert cells(ran, "Chosen:")[0].startswith("t3.nano")


# ---------------------------------------------------------------- the command itself


def test_it_imports_no_ray_boto3_or_grpc_and_numpy_only_to_compute() -> None:
    def imported(*args: str) -> set[str]:
        done = subprocess.run(
            [COMMAND[0], "-X", "importtime", *COMMAND[1:], "explain", *args],
            capture_output=True,
            text=True,
            timeout=60,
            env=environment(),
            check=False,
        )
        return {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if "|" in line}

    heavy = {"ray", "boto3", "grpc", "aetcd", "cryptography", "asyncio"}
    assert "numpy" not in imported("--help")
    computing = imported("--cpu", "2", *HERE)
    assert "numpy" in computing
    assert computing & heavy == set()


def test_without_numpy_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cloud.catalog", None)
    ran = run("--cpu", "2", *HERE)
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith("Error: explain computes with NumPy, which cannot be imported")
    assert "pip install 'milpa-ray[prices]'" in ran.err


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("explain --ded", {"--dedicated"}),
        ("explain --sustained ", {"true", "false", "unset"}),
        ("explain --arch a", {"amd64", "arm64"}),
        ("explain --spot p", {"preferred"}),
        ("explain --region us-east", {"us-east-1", "us-east-2"}),
        ("explain depl", {"deployments"}),
    ],
)
def test_the_shell_is_offered_flags_and_their_values(words: str, offered: set[str]) -> None:
    typed = ["milpactl", *words.split(" ")]
    env = {"_MILPACTL_COMPLETE": "complete_bash", "COMP_WORDS": "\n".join(typed), "COMP_CWORD": str(len(typed) - 1)}
    assert set(milpactl_here(env=env).out.split()) == offered
