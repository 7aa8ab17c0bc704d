"""An instance type as AWS tells of it, as the catalogue keeps it."""

from typing import Any

import pytest

from cloud.aws.instance_facts import Unknown, instance_type
from cloud.catalog import known_types
from cloud.catalog_file import InstanceType

KNOWN = known_types()


def told(name: str, **more: Any) -> dict[str, Any]:
    plain = {
        "InstanceType": name,
        "VCpuInfo": {"DefaultVCpus": 4},
        "MemoryInfo": {"SizeInMiB": 8192},
        "ProcessorInfo": {"SupportedArchitectures": ["x86_64"]},
    }
    return plain | more


def test_a_plain_type() -> None:
    found = instance_type(told("m9id.xlarge", CurrentGeneration=True), KNOWN)
    assert found == InstanceType("m9id.xlarge", 9, 4, 8192, "amd64", baseline=4.0, current_generation=True)


def test_whole_gpus_are_counted_and_a_part_of_one_is_named_only() -> None:
    gpu = {"Name": "L4", "Manufacturer": "NVIDIA", "Count": 4, "MemoryInfo": {"SizeInMiB": 22888}}
    found = instance_type(told("g6.12xlarge", GpuInfo={"Gpus": [gpu]}), KNOWN)
    assert (found.gpu_count, found.gpu_name, found.gpu_memory_mib) == (4, "NVIDIA L4", 22888)
    part = instance_type(told("g6f.large", GpuInfo={"Gpus": [gpu | {"Count": 0}]}), KNOWN)
    assert (part.gpu_count, part.gpu_name) == (0, "NVIDIA L4")


def test_what_aws_does_not_tell_of_burstable_types_is_kept_from_before() -> None:
    found = instance_type(told("t4g.xlarge", BurstablePerformanceSupported=True), KNOWN)
    assert (found.burstable, found.baseline, found.surcharge, found.unlimited_by_default) == (True, 1.6, 0.04, True)


def test_a_flex_type_may_use_two_fifths_for_ever() -> None:
    found = instance_type(told("x9-flex.xlarge"), {})
    assert (found.flex, found.burstable, found.baseline, found.surcharge) == (True, False, 1.6, 0.0)


def test_t1_is_older_than_credits() -> None:
    assert not instance_type(told("t1.micro"), KNOWN).burstable


@pytest.mark.parametrize("name", ["t9.nano", "z1.large"])
def test_a_burstable_type_of_unknown_baseline_is_refused(name: str) -> None:
    with pytest.raises(Unknown, match=f"{name}: its CPU baseline is not known"):
        instance_type(told(name, BurstablePerformanceSupported=name.startswith("z")), KNOWN)


@pytest.mark.parametrize(
    "wrong",
    [
        {"VCpuInfo": {}},
        {"VCpuInfo": {"DefaultVCpus": 0}},
        {"MemoryInfo": None},
        {"ProcessorInfo": {"SupportedArchitectures": ["i386"]}},
    ],
)
def test_a_type_without_an_essential_fact_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(Unknown, match=r"m9\.large: "):
        instance_type(told("m9.large", **wrong), KNOWN)
