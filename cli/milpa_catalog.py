"""``milpa catalog``: the prices by which instances are chosen: shows which are in use, and fetches today's from AWS."""

from collections.abc import Mapping
from typing import Annotated, Optional

import typer

from cli.milpa_options import Config, HomeDir, check_output, home_of
from cli.reporting import CommandFailed, UsageError, note

app = typer.Typer(
    name="catalog",
    help="Show or refresh the prices by which instances are chosen.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Regions = Annotated[
    Optional[list[str]],  # noqa: UP045 - typer reads it at run time
    typer.Option("--region", help="An AWS region; may be given several times."),
]


@app.command()
def refresh(
    home: HomeDir = None,
    config: Config = None,
    region: Regions = None,
    everything: Annotated[bool, typer.Option("--all", help="All regions that the account has enabled.")] = False,
) -> None:
    """Fetch types, zones and prices from AWS. Without --region: of the region that server.yml or AWS_REGION names.

    Each region's prices are replaced at once, or stay as they are when anything fails. Controllers use them from their
    next start on.
    """
    from cloud.aws.pricing import check_region
    from milpa_ray.errors import Invalid
    from shards import catalogs

    if region and everything:
        raise UsageError("--region and --all exclude each other")
    try:
        for name in region or ():
            check_region(name)
    except Invalid as wrong:
        raise UsageError(f"--{wrong}") from None
    where = home_of(home)
    settings = catalogs.configured(where, config.absolute() if config else None)
    outcomes = catalogs.refresh(
        where, settings, region or (), everything=everything, progress=lambda line: note(f"  {line}")
    )
    for outcome in outcomes:
        if not outcome.problem:
            note(f"{outcome.region}: {outcome.types} instance types with today's prices{_left_out(outcome.left_out)}.")
    failed = [f"{outcome.region} keeps the prices it had: {outcome.problem}" for outcome in outcomes if outcome.problem]
    if failed:
        raise CommandFailed(*failed)
    note("Controllers use them from their next start on: 'milpa stop', then 'milpa up'; pods go on running.")


@app.command()
def show(
    home: HomeDir = None,
    region: Regions = None,
    output: Annotated[str, typer.Option("--output", "-o", help="'json' or 'yaml' for programs.")] = "",
) -> None:
    """Show which prices are in use, and how old they are; of all regions unless --region names some."""
    from cli.milpa_tables import show_catalogs
    from milpa_ray.errors import Invalid
    from shards.catalogs import entries

    check_output(output, ("json", "yaml"))
    try:
        found = entries(home_of(home), region or ())
    except Invalid as unknown:
        raise UsageError(f"--{unknown}") from None
    show_catalogs(found, output)
    for entry in found:
        if entry.problem:
            note(f"Warning: {entry.problem}")
    if old := sum(entry.old for entry in found):
        note(f"Warning: prices of {old} of {len(found)} regions are old; 'milpa catalog refresh' fetches today's")


def _left_out(reasons: Mapping[str, str]) -> str:
    if not reasons:
        return ""
    name, reason = min(reasons.items())
    return f"; {len(reasons)} left out, such as {name} ({reason})"
