"""``version``, ``dump`` and ``completion``: about Milpa itself."""

from enum import StrEnum
from typing import Annotated

import typer

from cli.connection import Connection
from cli.kinds import BY_NAME

VERSION_EXAMPLES = """
milpactl version             # of client and server
milpactl version --client    # without asking the server
"""
DUMP_EXAMPLES = """
milpactl dump all > milpaDump.txt
milpactl dump pods
"""
COMPLETION_EXAMPLES = """
source <(milpactl completion bash)                                        # for this shell
milpactl completion bash > /etc/bash_completion.d/milpactl                # for all
milpactl completion zsh > ~/.zfunc/_milpactl
milpactl completion fish > ~/.config/fish/completions/milpactl.fish
"""


def version(
    connection: Connection,
    client_only: Annotated[bool, typer.Option("--client", help="Only the client's; asks no server.")] = False,
) -> None:
    """Show the versions of milpactl and the server."""
    from milpa_ray import __version__

    print(f"milpactl version: {__version__}", flush=True)
    if client_only:
        return
    with connection.client() as client:
        print(f"Milpa server version: {client.version().version}")


def dump(
    connection: Connection,
    what: Annotated[str, typer.Argument(metavar="all | KIND | CONTROLLER", show_default=False)] = "all",
) -> None:
    """Print the inner state of Milpa as JSON.

    For finding faults, and for reports of them; the values of secrets are left out.
    """
    from cli.output import documents

    kind = BY_NAME.get(what.lower())
    with connection.client() as client:
        found = client.dump(kind.name if kind else what)
    documents.write(documents.as_json(found))


class Shell(StrEnum):
    """Shells with a completion script."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def completion(
    _connection: Connection,
    shell: Annotated[Shell, typer.Argument(show_default=False)],
) -> None:
    """Print the completion script for a shell.

    It completes commands, flags, kinds and names of objects.
    """
    from typer.completion import get_completion_script  # type: ignore[attr-defined]

    print(get_completion_script(prog_name="milpactl", complete_var=COMPLETE_VARIABLE, shell=shell.value))


COMPLETE_VARIABLE = "_MILPACTL_COMPLETE"
"""Set by the script when the shell asks for words; typer answers instead of running a command."""
