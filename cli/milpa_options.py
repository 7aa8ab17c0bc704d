"""Options that several ``milpa`` commands share."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

if TYPE_CHECKING:
    from milpa_ray.paths import Home

HomeDir = Annotated[
    Optional[Path],  # noqa: UP045 - typer reads it at run time
    typer.Option("--home", envvar="MILPA_HOME", help="Where Milpa keeps its files.", show_default="/opt/milpa"),
]
Config = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option("--config", "-c", help="Settings to use instead of etc/server.yml in the home."),
]
Output = Annotated[str, typer.Option("--output", "-o", help="'json' for programs.")]


def check_output(output: str, formats: tuple[str, ...] = ("json",)) -> None:
    """Raises UsageError when the command has no such format."""
    from cli.reporting import UsageError

    if output and output not in formats:
        known = " and ".join(map(repr, formats))
        raise UsageError(f"--output {output}: there is only {known}")


def home_of(given: Path | None) -> "Home":
    """The home that ``--home`` names, or else MILPA_HOME."""
    from milpa_ray.paths import Home

    return Home(given.expanduser().absolute()) if given else Home.from_env()
