"""``logs``: what a pod's unit or a node's agent has written. Bytes pass as they are, at once."""

import sys
from typing import Annotated

import typer

from cli.complete import complete_log_source
from cli.connection import Connection
from cli.kinds import kind_called
from cli.reporting import UsageError

DEFAULT_LINES = 10
MOST = 2**31 - 1
"""What a request can carry, of lines or bytes."""
EXAMPLES = """
milpactl logs web                        # the last 10 lines of the pod's only unit
milpactl logs web -u http --lines 45     # of one of its units
milpactl logs -f web                     # go on until the unit ends
milpactl logs --limit-bytes 500 4f2c...  # of a node's agent
"""


def logs(
    connection: Connection,
    name: Annotated[
        str,
        typer.Argument(metavar="POD|NODE", show_default=False, autocompletion=complete_log_source),
    ],
    unit: Annotated[str, typer.Option("--unit", "-u", help="Unit of the pod; needed when it has several.")] = "",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the unit ends.")] = False,
    lines: Annotated[
        int | None,
        typer.Option(
            "--lines", min=0, max=MOST, help="Last lines to show; 0 for all. [default: 10]", show_default=False
        ),
    ] = None,
    limit_bytes: Annotated[
        int | None,
        typer.Option("--limit-bytes", min=1, max=MOST, help="Last bytes to show at most.", show_default=False),
    ] = None,
) -> None:
    """Show the log of a pod's unit, or of a node's agent.

    Of what has ended, the saved tail is shown for an hour.
    """
    kind, slash, plain = name.rpartition("/")
    if slash and kind_called(kind).name not in ("Pod", "Node"):
        raise UsageError(f'only pods and nodes have logs; "{name}" is neither')
    if lines is None:
        lines = 0 if limit_bytes else DEFAULT_LINES
    out = sys.stdout.buffer
    with connection.client() as client:
        for chunk in client.logs(plain, unit=unit, lines=lines, limit_bytes=limit_bytes or 0, follow=follow):
            out.write(chunk)
            out.flush()
