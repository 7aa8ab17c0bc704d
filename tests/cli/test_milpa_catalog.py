"""``milpa catalog``: real processes against moto and a price list before it, and what they leave when ended."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from cloud.catalog import load_catalog
from tests.aws.catalog_api import CatalogApi, serving, spot_price
from tests.aws.proxy import AwsProxy
from tests.waiting import wait_until

REGION = "me-south-1"
TIMEOUT_S = 90
MILPA = Path(sys.executable).with_name("milpa")
ENDED_WITHIN_S = 20.0


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CatalogApi]:
    with serving(tmp_path_factory.mktemp("moto")) as served:
        yield served


@dataclass
class Bench:
    """``milpa`` for one home, with an AWS of its own."""

    home: Path
    proxy: AwsProxy
    environment: dict[str, str] = field(default_factory=dict)

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "MILPA_"))}
        told = {
            "AWS_ENDPOINT_URL": self.proxy.url,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": "/nonexistent",
            "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
            "MILPA_HOME": str(self.home),
        }
        return subprocess.Popen(
            [MILPA, *arguments],
            env=kept | told | self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str) -> tuple[int, str, str]:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=TIMEOUT_S)
        assert "Traceback" not in err
        return process.returncode, out, err

    def price(self) -> float:
        """Of one type, relative to the shipped price."""
        return load_catalog(REGION, self.home / "catalog").price("m5.large") / load_catalog(REGION).price("m5.large")

    def files(self) -> list[str]:
        folder = self.home / "catalog"
        return sorted(path.name for path in folder.iterdir()) if folder.exists() else []

    def configure(self, cloud: str) -> None:
        (self.home / "etc").mkdir(parents=True)
        (self.home / "etc" / "server.yml").write_text(f"clusterName: test\ncloud: {cloud}\n")


@pytest.fixture
def bench(api: CatalogApi, tmp_path: Path) -> Iterator[Bench]:
    proxy = AwsProxy(api.url).start()
    try:
        yield Bench(tmp_path / "home", proxy)
    finally:
        api.factor, api.enabled = 1.0, ()
        proxy.stop()


def test_refresh_and_show(bench: Bench, api: CatalogApi) -> None:
    api.factor = 1.25
    began = datetime.now(UTC).date()
    code, out, err = bench.run("catalog", "refresh", "--region", REGION)
    assert (code, out) == (0, "")
    count = len(load_catalog(REGION))
    assert f"{REGION}: {count} instance types with today's prices; {254 - count} left out, such as" in err
    assert "'milpa stop', then 'milpa up'" in err
    assert bench.price() == pytest.approx(1.25)
    fresh = load_catalog(REGION, bench.home / "catalog")
    zone = fresh.zones[0]
    assert fresh.price_spot_zone[fresh.index("t3.nano"), 0] == pytest.approx(spot_price("t3.nano", zone))

    code, out, err = bench.run("catalog", "show", "--region", REGION, "--region", "eu-west-1", "-o", "json")
    refreshed, shipped = json.loads(out)
    assert code == 0
    assert refreshed.pop("pricesAsOf") in {began.isoformat(), datetime.now(UTC).date().isoformat()}
    assert refreshed.pop("pricesAgeDays") in (0, 1)  # 1: midnight passed meanwhile
    assert refreshed == {
        "region": REGION,
        "types": count,
        "zones": 3,
        "spot": count,
        "source": "AWS",
        "pricesOld": False,
        "file": str(bench.home / "catalog" / f"{REGION}.npz"),
        "problem": "",
    }
    assert (shipped["source"], shipped["pricesAsOf"], shipped["pricesOld"]) == ("shipped", "2025-04-04", True)
    assert "Warning: prices of 1 of 2 regions are old; 'milpa catalog refresh'" in err


def test_show_is_a_table_of_all_regions(bench: Bench) -> None:
    code, out, err = bench.run("catalog", "show")
    assert code == 0
    lines = out.splitlines()
    assert lines[0].split() == ["REGION", "TYPES", "ZONES", "SPOT", "PRICES", "OF", "AGE", "FROM"]
    assert len(lines) == 35
    assert "Warning" in err
    code, out, err = bench.run("catalog", "show", "--region", "us-east-9")
    assert (code, out) == (2, "")
    assert "Error: --region: 'us-east-9' is unknown" in err
    shown = [bench.run("catalog", "show", "--region", REGION, "-o", form)[1] for form in ("json", "yaml")]
    assert yaml.safe_load(shown[1]) == json.loads(shown[0])
    assert bench.run("catalog", "show", "-o", "xml")[0] == 2


def test_a_broken_file_is_told_of_and_not_fatal(bench: Bench) -> None:
    (bench.home / "catalog").mkdir(parents=True)
    (bench.home / "catalog" / f"{REGION}.npz").write_bytes(b"broken")
    code, out, err = bench.run("catalog", "show", "--region", REGION, "-o", "json")
    assert (code, json.loads(out)[0]["source"]) == (0, "shipped")
    assert "Warning: refreshed catalogue not used:" in err
    assert f"'milpa catalog refresh --region {REGION}' makes it anew" in err


def test_settings_name_region_and_keys(bench: Bench) -> None:
    bench.configure(f"{{aws: {{region: {REGION}, accessKeyID: testing, secretAccessKey: testing}}}}")
    bench.environment = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}
    code, _, err = bench.run("catalog", "refresh")
    assert (code, bench.files()) == (0, [f"{REGION}.npz"]), err


def test_without_credentials_nothing_is_replaced(bench: Bench) -> None:
    bench.environment = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}
    code, _, err = bench.run("catalog", "refresh", "--region", REGION)
    assert code == 1
    assert f"Error: {REGION} keeps the prices it had: " in err
    assert "Unable to locate credentials" in err
    assert "AWS_ACCESS_KEY_ID" in err
    assert bench.files() == []


def test_a_missing_permission_is_named_and_other_regions_go_on(bench: Bench) -> None:
    bench.proxy.fail(
        "DescribeInstanceTypes", "UnauthorizedOperation", times=None, fits=lambda call: call.region == "ap-southeast-4"
    )
    code, _, err = bench.run("catalog", "refresh", "--region", "ap-southeast-4", "--region", REGION)
    assert code == 1
    assert "Error: ap-southeast-4 keeps the prices it had: ec2 DescribeInstanceTypes: UnauthorizedOperation" in err
    assert "docs/aws.md" in err
    assert bench.files() == [f"{REGION}.npz"]


def test_all_regions_are_those_that_the_account_has(bench: Bench, api: CatalogApi) -> None:
    api.enabled = (REGION, "ap-southeast-4", "us-gov-west-1")
    bench.proxy.fail("*", "OptInRequired", times=None, fits=lambda call: call.region == "ap-southeast-4")
    code, _, err = bench.run("catalog", "refresh", "--all")
    assert code == 1
    assert f"  2 regions: ap-southeast-4, {REGION}" in err
    assert "Error: ap-southeast-4 keeps the prices it had: " in err
    assert bench.files() == [f"{REGION}.npz"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 1, "name one with --region"),
        (("--region", "us-gov-west-1"), 2, "GovCloud"),
        (("--region", "../../etc"), 2, "no region"),
        (("--region", REGION, "--all"), 2, "exclude each other"),
        (("--config", "/nonexistent.yml"), 1, "/nonexistent.yml"),
    ],
)
def test_wrong_use(bench: Bench, arguments: tuple[str, ...], code: int, words: str) -> None:
    returned, out, err = bench.run("catalog", "refresh", *arguments)
    assert (returned, out) == (code, "")
    assert words in err
    assert bench.proxy.seen == []


@pytest.mark.parametrize(
    ("action", "how", "code"),
    [("DescribeSpotPriceHistory", signal.SIGKILL, -signal.SIGKILL), ("GetProducts", signal.SIGINT, 130)],
)
def test_ended_in_the_middle_it_leaves_the_old_prices(
    bench: Bench, api: CatalogApi, action: str, how: int, code: int
) -> None:
    api.factor = 1.2
    assert bench.run("catalog", "refresh", "--region", REGION)[0] == 0
    api.factor = 1.5
    held = bench.proxy.hold(action)
    process = bench.start("catalog", "refresh", "--region", REGION)
    try:
        wait_until(held.entered.is_set, TIMEOUT_S, "the call is held")
        process.send_signal(how)
        if how == signal.SIGINT:
            held.release()
        _, err = process.communicate(timeout=ENDED_WITHIN_S)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == code
    assert "Traceback" not in err
    assert bench.price() == pytest.approx(1.2)
    assert bench.files() == [f"{REGION}.npz"]
    bench.proxy.relent()
    assert bench.run("catalog", "refresh", "--region", REGION)[0] == 0
    assert bench.price() == pytest.approx(1.5)
