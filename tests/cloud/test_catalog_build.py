"""The catalogue's file out of CSV files: what is kept, what is left out, and what is refused."""

import math
from datetime import date
from pathlib import Path

import pytest

from cloud.catalog import read_refreshed
from cloud.catalog_build import build, main
from cloud.catalog_file import generation, read_regions, read_types

TYPES = """\
instance_type,family,vcpus,memory_mib,gpu_count,gpu_name,gpu_memory_mib,arch,burstable,baseline_vcpus,bare_metal,current_generation,network,local_storage_gb
c7i-flex.large,c7i-flex,2,4096,0,,0,x86_64,0,2,0,1,Up to 12.5 Gigabit,0
g4dn.xlarge,g4dn,4,16384,1,NVIDIA T4,16384,x86_64,0,4,0,1,Up to 25 Gigabit,125
m6g.metal,m6g,64,262144,0,,0,arm64,0,64,1,1,25 Gigabit,0
p3.2xlarge,p3,8,62464,1,NVIDIA V100,16384,x86_64,0,8,0,0,Up to 10 Gigabit,0
t2.nano,t2,1,512,0,,0,x86_64,1,0.05,0,0,Low to Moderate,0
"""
PRICES = """\
region,instance_type,on_demand_usd_hour,spot_usd_hour,zones
us-east-1,t2.nano,0.0058,0.002,us-east-1a;us-east-1b
us-east-1,c7i-flex.large,0.08479,,us-east-1b
us-east-1,p3.2xlarge,3.06,,
us-east-1,unheard.of,1,,us-east-1a
us-east-1,g4dn.xlarge,,,us-east-1a
eu-west-9,m6g.metal,2.752,,
"""
BURSTABLE = """\
instance_type,kind,vcpus,baseline_pct_per_vcpu,baseline_vcpus,credits_per_hour,surplus_usd_per_vcpu_hour,default_mode
c7i-flex.large,flex,2,40,0.8,,,
t2.nano,credits,1,5,0.05,3,0.05,standard
"""


def folder(path: Path, types: str = TYPES, prices: str = PRICES, burstable: str = BURSTABLE) -> Path:
    for name, text in (("instance_types", types), ("prices", prices), ("burstable", burstable)):
        (path / f"{name}.csv").write_text(text)
    return path


def test_what_is_kept_and_left_out(tmp_path: Path) -> None:
    out = tmp_path / "out.npz"
    # Not kept: no zone has it any more, its type is unknown, it has no price. eu-west-9's zones are not known at all.
    assert build(folder(tmp_path), out) == (3, 3)
    assert read_regions(out) == {"eu-west-9": date(2025, 4, 4), "us-east-1": date(2026, 7, 20)}
    found = read_refreshed(out, "us-east-1").catalogue
    assert found.names == ("c7i-flex.large", "t2.nano")
    assert found.zones_of("c7i-flex.large") == ("us-east-1b",)
    assert found.price("t2.nano", spot=True) == 0.002
    assert math.isnan(found.price("c7i-flex.large", spot=True))
    assert (found.flex.tolist(), found.burstable.tolist()) == ([True, False], [False, True])
    assert (found.baseline.tolist(), found.surcharge.tolist()) == ([0.8, 0.05], [0, 0.05])
    assert found.unlimited_by_default.tolist() == [False, False]
    metal = read_refreshed(out, "eu-west-9").catalogue
    assert (metal.zones, metal.bare_metal.tolist(), metal.arch.tolist()) == ((), [True], ["arm64"])
    assert set(read_types(out)) == {"c7i-flex.large", "m6g.metal", "t2.nano"}


def test_the_same_csv_files_give_the_same_file(tmp_path: Path) -> None:
    build(folder(tmp_path), tmp_path / "one.npz")
    build(tmp_path, tmp_path / "two.npz")
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()


def test_files_that_disagree_on_credits_are_refused(tmp_path: Path) -> None:
    folder(tmp_path, burstable=BURSTABLE.replace("t2.nano,credits", "t2.nano,flex"))
    with pytest.raises(ValueError, match=r"t2\.nano: burstable\.csv and instance_types\.csv disagree"):
        build(tmp_path, tmp_path / "out.npz")


def test_a_missing_file_is_no_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["catalog_build", str(tmp_path), str(tmp_path / "out.npz")])
    with pytest.raises(SystemExit, match=r"Error: FileNotFoundError.*burstable\.csv"):
        main()


@pytest.mark.parametrize(
    ("name", "number"),
    [("c5.large", 5), ("m6idn.2xlarge", 6), ("u-6tb1.metal", 1), ("u7i-12tb.224xlarge", 7), ("g4ad.xlarge", 4)],
)
def test_the_generation_is_in_the_name(name: str, number: int) -> None:
    assert generation(name) == number
