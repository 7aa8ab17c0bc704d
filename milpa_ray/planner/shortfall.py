"""How one instance type falls short of a request, in words: what it has, and what was asked.

Texts only; whether it falls short is ``eligibility``'s to say.
"""

from collections.abc import Callable

import numpy as np

from milpa_ray.planner.catalogue import Catalogue
from milpa_ray.planner.eligibility import Constraint
from milpa_ray.planner.request import DEFAULT_ARCH, Request

GROUPS: dict[Constraint, str] = {
    Constraint.INSTANCE_TYPE: "not the asked instanceType",
    Constraint.PARAVIRTUAL: "boots paravirtual images only, and there are none any more",
    Constraint.BARE_METAL: "bare metal, taken only when named",
    Constraint.PRICE: "no price is known",
    Constraint.OFFERED: "no zone has it any more",
    Constraint.ARCH: "another architecture",
    Constraint.DEDICATED_CPU: "shared CPU, dedicated was asked",
    Constraint.GPU: "too few GPUs",
    Constraint.GPU_NAME: "another GPU, or none",
    Constraint.MEMORY: "too little memory",
    Constraint.CPU: "too few CPUs",
    Constraint.BASELINE: "CPU baseline too low, and sustainedCPU is false",
    Constraint.ZONE: "not in the asked zone",
    Constraint.SPOT: "no spot price is known",
    Constraint.CAPACITY: "the cloud had none a moment ago",
}
"""What the types that fail a constraint have in common."""


def shortfall(catalogue: Catalogue, request: Request, row: int, constraint: Constraint) -> str:
    """Why the type of ``row`` fails ``constraint``."""
    words = _WORDS.get(constraint)
    return words(catalogue, request, row) if words else GROUPS[constraint]


def has_gpus(catalogue: Catalogue, row: int) -> str:
    """Number and name of a type's GPUs, as in ``8 NVIDIA T4``; empty for none. A part of a GPU counts as 0."""
    count, name = int(catalogue.gpu_count[row]), str(catalogue.gpu_name[row])
    return f"{count} {name}" if count else f"part of a {name}" if name else ""


def _instance_type(_catalogue: Catalogue, request: Request, _row: int) -> str:
    return f"instanceType asks for {request.policy.instance_type}"


def _arch(catalogue: Catalogue, request: Request, row: int) -> str:
    default = ", the default" if request.policy.arch == DEFAULT_ARCH else ""
    return f"{catalogue.arch[row]}, not {request.policy.arch}{default}"


def _dedicated(catalogue: Catalogue, _request: Request, row: int) -> str:
    return f"shared CPU ({'flex' if catalogue.flex[row] else 'burstable'}), dedicated was asked"


def _gpu(catalogue: Catalogue, request: Request, row: int) -> str:
    return f"{has_gpus(catalogue, row) or 'no GPU'} of {request.policy.gpus} asked"


def _gpu_name(catalogue: Catalogue, request: Request, row: int) -> str:
    return f"{catalogue.gpu_name[row] or 'no GPU'}, not {request.policy.gpu_name}"


def _memory(catalogue: Catalogue, request: Request, row: int) -> str:
    return f"{catalogue.memory_mib[row] / 1024:.10g} GiB memory of {request.memory_mib / 1024:.10g} asked"


def _cpu(catalogue: Catalogue, request: Request, row: int) -> str:
    return f"{catalogue.vcpus[row]:.10g} vCPU of {request.cpu:.10g} asked"


def _baseline(catalogue: Catalogue, request: Request, row: int) -> str:
    return f"CPU baseline {catalogue.baseline[row]:.10g} of {request.cpu:.10g} asked with sustainedCPU false"


def _zone(catalogue: Catalogue, request: Request, row: int) -> str:
    zones = [catalogue.zones[zone] for zone in np.flatnonzero(catalogue.offered[row])]
    return f"not in {request.policy.zone}, but in {', '.join(zones)}"


_WORDS: dict[Constraint, Callable[[Catalogue, Request, int], str]] = {
    Constraint.INSTANCE_TYPE: _instance_type,
    Constraint.ARCH: _arch,
    Constraint.DEDICATED_CPU: _dedicated,
    Constraint.GPU: _gpu,
    Constraint.GPU_NAME: _gpu_name,
    Constraint.MEMORY: _memory,
    Constraint.CPU: _cpu,
    Constraint.BASELINE: _baseline,
    Constraint.ZONE: _zone,
}
