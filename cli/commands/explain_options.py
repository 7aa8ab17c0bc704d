"""The arguments and options of ``milpactl explain``, which are many."""

from enum import StrEnum
from typing import Annotated

import typer

from cli.complete import complete_target
from cli.prices import complete_region


class Output(StrEnum):
    """How the explanation is shown."""

    TEXT = "text"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"


class Sustained(StrEnum):
    """``resources.sustainedCPU``."""

    TRUE = "true"
    FALSE = "false"
    UNSET = "unset"


class Arch(StrEnum):
    """Architectures of instances."""

    AMD64 = "amd64"
    ARM64 = "arm64"


class Spot(StrEnum):
    """``spot.policy``."""

    ALWAYS = "always"
    PREFERRED = "preferred"
    NEVER = "never"


Targets = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="pod NAME",
        help="What is on the server: pod NAME..., or KIND/NAME... with deployments and replicasets.",
        show_default=False,
        autocompletion=complete_target,
    ),
]
Filenames = Annotated[
    list[str] | None,
    typer.Option("--filename", "-f", metavar="FILE|DIR|-", help="Manifests; may be repeated.", show_default=False),
]
Recursive = Annotated[bool, typer.Option("--recursive", "-R", help="Read folders within folders as well.")]
Cpu = Annotated[str | None, typer.Option("--cpu", metavar="CORES", help="As in 2, 0.5 or 500m.")]
Memory = Annotated[str | None, typer.Option("--memory", metavar="BYTES", help="As in 2Gi.")]
Gpu = Annotated[str | None, typer.Option("--gpu", metavar="COUNT", help="Number of GPUs.")]
GpuName = Annotated[str | None, typer.Option("--gpu-name", metavar="NAME", help="As in T4 or A100.")]
Dedicated = Annotated[
    bool, typer.Option("--dedicated/--no-dedicated", help="No shared CPUs (dedicatedCPU).", show_default=False)
]
SustainedCpu = Annotated[
    Sustained, typer.Option("--sustained", case_sensitive=False, help="CPU above the baseline (sustainedCPU).")
]
ArchName = Annotated[
    Arch | None, typer.Option("--arch", case_sensitive=False, help="Architecture of the images; amd64 if not said.")
]
SpotPolicy = Annotated[
    Spot | None, typer.Option("--spot", case_sensitive=False, help="Spot policy; never if not said.")
]
Zone = Annotated[str | None, typer.Option("--zone", metavar="ZONE", help="As in us-east-1a.")]
InstanceType = Annotated[
    str | None, typer.Option("--instance-type", metavar="TYPE|GLOB", help="As in c5.large, or 'c5*'.")
]
VolumeSize = Annotated[str | None, typer.Option("--volume-size", metavar="BYTES", help="Root volume, as in 60Gi.")]
PrivateIpOnly = Annotated[bool, typer.Option("--private-ip-only", help="Without a public address.")]
Region = Annotated[
    str | None,
    typer.Option(
        "--region",
        help="Whose prices (env MILPA_REGION); else the server's, which go first for its pods; else us-east-1.",
        autocompletion=complete_region,
        show_default=False,
    ),
]
Everything = Annotated[bool, typer.Option("--all", help="Every instance type with its reason (as -o wide).")]
OutputFormat = Annotated[Output, typer.Option("--output", "-o", help="How to show it.")]
