"""What ``DescribeInstanceTypes`` tells of an instance type, as the catalogue keeps it.

AWS's APIs don't tell everything: a burstable type's baseline and surcharge are taken from what the catalogue knew
before, and a flex type's baseline is a fixed share. Sends nothing.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from cloud.catalog_file import ARCHITECTURES, InstanceType, generation

FLEX_BASELINE = 0.4
"""Share of each vCPU that a flex type may use for ever."""
_SHARED_FAMILY = re.compile(r"t([2-9]|\d\d)")
"""Families with CPU credits, whatever the API's flag says: it is missing for the newest. (t1 is older than credits.)"""


class Unknown(ValueError):
    """A type that cannot be put into the catalogue; the text says why."""


def instance_type(told: Mapping[str, Any], known: Mapping[str, InstanceType]) -> InstanceType:
    """Facts of one type; ``known`` are those that the catalogue has.

    Raises:
        Unknown: an essential fact is missing.
    """
    name = str(told.get("InstanceType", ""))
    try:
        vcpus, memory_mib = int(told["VCpuInfo"]["DefaultVCpus"]), int(told["MemoryInfo"]["SizeInMiB"])
        architectures = told["ProcessorInfo"]["SupportedArchitectures"]
    except (LookupError, TypeError, ValueError) as error:
        raise Unknown(f"{name}: CPU, memory or architecture is not told") from error
    arch = next((ARCHITECTURES[each] for each in architectures if each in ARCHITECTURES), "")
    if not arch or vcpus <= 0 or memory_mib <= 0:
        raise Unknown(f"{name}: no 64-bit architecture" if not arch else f"{name}: no CPU or no memory")
    plain = InstanceType(
        name=name,
        generation=generation(name),
        vcpus=vcpus,
        memory_mib=memory_mib,
        arch=arch,
        baseline=float(vcpus),
        bare_metal=bool(told.get("BareMetal", False)),
        current_generation=bool(told.get("CurrentGeneration", False)),
    )
    return _with_cpu_share(_with_gpus(plain, told), told, known.get(name))


def _with_gpus(plain: InstanceType, told: Mapping[str, Any]) -> InstanceType:
    gpus = told.get("GpuInfo", {}).get("Gpus") or ()
    if not gpus:
        return plain
    first = gpus[0]
    return replace(
        plain,
        gpu_count=sum(int(gpu.get("Count", 0)) for gpu in gpus),
        gpu_name=f"{first.get('Manufacturer', '')} {first.get('Name', '')}".strip(),
        gpu_memory_mib=int(first.get("MemoryInfo", {}).get("SizeInMiB", 0)),
    )


def _with_cpu_share(plain: InstanceType, told: Mapping[str, Any], known: InstanceType | None) -> InstanceType:
    family = plain.name.partition(".")[0]
    if family.endswith("-flex"):
        return replace(plain, flex=True, baseline=round(plain.vcpus * FLEX_BASELINE, 6))
    if not told.get("BurstablePerformanceSupported") and not _SHARED_FAMILY.match(family):
        return plain
    if known is None or not known.burstable:
        raise Unknown(f"{plain.name}: its CPU baseline is not known to this version of Milpa")
    return replace(
        plain,
        burstable=True,
        baseline=known.baseline,
        surcharge=known.surcharge,
        unlimited_by_default=known.unlimited_by_default,
    )
