"""``explain``: which instance a pod gets, what it costs, and why no other; with or without a server."""

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import typer

from cli.commands.explain_options import (
    ArchName,
    Cpu,
    Dedicated,
    Everything,
    Filenames,
    Gpu,
    GpuName,
    InstanceType,
    Memory,
    Output,
    OutputFormat,
    PrivateIpOnly,
    Recursive,
    Region,
    SpotPolicy,
    Sustained,
    SustainedCpu,
    Targets,
    VolumeSize,
    Zone,
)
from cli.connection import Connection
from cli.kinds import parse_targets
from cli.output.documents import write
from cli.prices import prices_of, refresh_of
from cli.reporting import FAILED, CommandFailed, UsageError, error, note
from cli.subjects import Subject, check_targets, from_flags, from_manifests, from_server

if TYPE_CHECKING:
    from milpa_ray.client import Client, ClusterOffers
    from milpa_ray.planner.catalogue import Catalogue
    from milpa_ray.planner.explain import Explanation

EXAMPLES = """
milpactl explain -f pod.yml                              # before it is created
milpactl explain pod web                                 # why a pod has, or waits for, its instance
milpactl explain --cpu 0.1 --region us-east-1            # a price calculator; asks no server
milpactl explain --cpu 2 --memory 2Gi --dedicated --spot preferred
milpactl explain --gpu 1 --gpu-name T4 --all             # every instance type with its reason
milpactl explain --memory 2Gi --instance-type 'c5*' -o json
"""
DEFAULT_REGION = "us-east-1"
REGION_VARIABLE = "MILPA_REGION"
ASKED_S = 2.0
"""How long a server is asked for its region, when none has to be asked."""


@dataclass(frozen=True, slots=True)
class Market:
    """Where instances are chosen, and by which settings. ``full``: the stored memories of failed launches."""

    region: str
    instance_type: str = ""
    volume_size: str = ""
    full: tuple[bytes, ...] = ()


def explain(
    connection: Connection,
    targets: Targets = None,
    filename: Filenames = None,
    recursive: Recursive = False,
    cpu: Cpu = None,
    memory: Memory = None,
    gpu: Gpu = None,
    gpu_name: GpuName = None,
    dedicated: Dedicated = False,
    sustained: SustainedCpu = Sustained.UNSET,
    arch: ArchName = None,
    spot: SpotPolicy = None,
    zone: Zone = None,
    instance_type: InstanceType = None,
    volume_size: VolumeSize = None,
    private_ip_only: PrivateIpOnly = False,
    region: Region = None,
    everything: Everything = False,
    output: OutputFormat = Output.TEXT,
) -> None:
    """Explain which instance a pod gets, what it costs, and why no other.

    Give a pod of the server, manifests, or the size itself. Nothing is created. Exit code 1: nothing fits.
    """
    flags: dict[str, Any] = {
        "--cpu": cpu,
        "--memory": memory,
        "--gpu": gpu,
        "--gpu-name": gpu_name,
        "--dedicated": dedicated or None,
        "--sustained": None if sustained is Sustained.UNSET else sustained is Sustained.TRUE,
        "--arch": arch and arch.value,
        "--spot": spot and spot.value,
        "--zone": zone,
        "--instance-type": instance_type,
        "--volume-size": volume_size,
        "--private-ip-only": private_ip_only or None,
    }
    flags = {flag: value for flag, value in flags.items() if value is not None}
    _none_empty(flags | {"--region": region})
    _one_source(targets or [], filename or [], flags)
    preferred = os.environ.get(REGION_VARIABLE, "")
    if targets:
        wanted = check_targets(parse_targets(targets))
        with connection.client() as client:
            subjects = from_server(client, wanted)
            offers = _offers(client)
        # Its server chooses for it, wherever the user's mind is otherwise.
        market = _market(offers, region or (offers.region if offers else "") or preferred)
    else:
        subjects = from_manifests(filename, recursive=recursive) if filename else [from_flags(flags)]
        where = region or preferred
        market = _market(None, where) if where else _nearby(connection)
    _show(subjects, market, Output.WIDE if everything and output is Output.TEXT else output)


def _none_empty(flags: dict[str, Any]) -> None:
    """Raises UsageError for a flag with an empty value, as of a shell's variable that is not set."""
    for flag, value in flags.items():
        if isinstance(value, str) and not value.strip():
            raise UsageError(f"{flag}: has no value; give one, or leave the flag out")


def _one_source(targets: Sequence[str], files: Sequence[str], flags: dict[str, Any]) -> None:
    """Raises UsageError unless exactly one says what to explain."""
    given = [what for what, there in (("a pod", targets), ("-f", files), (next(iter(flags), ""), flags)) if there]
    if not given:
        raise UsageError("say what to explain: pod NAME, a manifest (-f), or a size such as --cpu 2 --memory 2Gi")
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} exclude each other: explain one of them at a time")


# ---------------------------------------------------------------- the region


def _offers(client: "Client") -> "ClusterOffers | None":
    """What the server chooses from; None from an older one, which cannot say."""
    from milpa_ray.errors import Invalid, PermissionDenied, Terminal

    try:
        return client.offers()
    except (Invalid, PermissionDenied):
        raise
    except Terminal:
        return None


def _nearby(connection: Connection) -> Market:
    """The market of the server, if one is there. Only one that the command line names must be."""
    from milpa_ray.errors import MilpaError

    try:
        with connection.client(ASKED_S, retry_s=0.0) as client:
            return _market(_offers(client), "")
    except UsageError:
        raise
    except MilpaError:
        if connection.endpoints:
            raise
        return _market(None, "")


def _market(offers: "ClusterOffers | None", region: str) -> Market:
    """The market of ``region``, or else the server's, or else us-east-1; with the server's settings if there are."""
    from milpa_ray.settings import Nodes

    defaults = Nodes()
    where = region or (offers.region if offers else "")
    if not where:
        where = DEFAULT_REGION
        note(f"No server says its region: these are prices of {where} (--region or {REGION_VARIABLE} name another).")
    market = Market(where, defaults.default_instance_type, defaults.default_volume_size)
    if offers is None:
        return market
    market = replace(
        market,
        instance_type=offers.default_instance_type or market.instance_type,
        volume_size=offers.default_volume_size or market.volume_size,
    )
    return replace(market, full=offers.full) if where == offers.region else market


# ---------------------------------------------------------------- the answer


def _show(subjects: Sequence[Subject], market: Market, output: Output) -> None:
    from cli.output.explanation import Explained

    found = prices_of(market.region)
    if found.problem:
        note(f"Warning: {found.problem}")
    today = datetime.now(UTC).date()  # not by Clock, whose module takes asyncio along
    explained = [
        Explained(
            subject,
            _explanation(subject, market, found.catalogue),
            market.region,
            prices_as_of=found.as_of.isoformat(),
            prices_from=found.source,
            file=str(found.path or ""),
            age_days=found.age_days(today),
            old=found.old(today),
            remedy=refresh_of(market.region),
        )
        for subject in subjects
    ]
    if output in (Output.JSON, Output.YAML):
        from cli.output import documents
        from cli.output.explanation_document import document

        every = [document(item) for item in explained]
        whole = every[0] if len(every) == 1 else {"kind": "List", "apiVersion": "v1", "items": every}
        write(documents.as_json(whole) if output is Output.JSON else documents.as_yaml(whole))
    else:
        from cli.output.explanation import explanation_text

        write("\n".join(explanation_text(item, wide=output is Output.WIDE) for item in explained))
    refused = [item for item in explained if item.explanation.refusal]
    for item in refused:
        label = f"{item.subject.label}: " if item.subject.label else ""
        error(f"{label}{item.said(item.explanation.refusal.message)}")  # type: ignore[union-attr]
    if refused:
        raise typer.Exit(FAILED)


def _explanation(subject: Subject, market: Market, catalogue: "Catalogue") -> "Explanation":
    from milpa_ray.api.quantity import QuantityError
    from milpa_ray.controller.capacity import decode_capacity
    from milpa_ray.planner.choose import Offers
    from milpa_ray.planner.explain import explain as explained
    from milpa_ray.planner.fullness import Full

    records = []
    for stored in market.full:
        with suppress(ValueError):  # of a newer server, perhaps
            records.append(decode_capacity("", stored))
    offers = Offers(catalogue, market.instance_type, Full.of(records))
    try:
        return explained(subject.spec, offers, market.volume_size)
    except QuantityError as bad:
        raise CommandFailed(f"{subject.label}: {bad}") from None
