"""``milpactl``: the client's command line. Gathers the commands; what each does is in ``cli.commands``.

Only the command that runs imports what it needs, so that the help, completion and a simple question to the server are
there in an instant.
"""

import gc
import os
import sys
from typing import Any

import typer
from typer.core import TyperGroup

from cli.commands import delete, describe, explain, get, info, logs, wait, write
from cli.connection import CertDir, Connection, DisableTls, Endpoints, add_command
from cli.reporting import report


class Commands(TyperGroup):
    """The commands, with wrong values told in plain words."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except typer.BadParameter as wrong:
            wrong.message = wrong.message.removeprefix("Value error, ")  # pydantic's, by which typer checks choices
            raise


app = typer.Typer(
    name="milpactl",
    cls=Commands,
    help="Create, inspect and delete the objects of a Milpa cluster.",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

add_command(app, "create", write.create, write.CREATE_EXAMPLES)
add_command(app, "update", write.update, write.UPDATE_EXAMPLES)
add_command(app, "apply", write.apply, write.APPLY_EXAMPLES)
add_command(app, "delete", delete.delete, delete.EXAMPLES)
add_command(app, "get", get.get, get.EXAMPLES)
add_command(app, "describe", describe.describe, describe.EXAMPLES)
add_command(app, "explain", explain.explain, explain.EXAMPLES)
add_command(app, "logs", logs.logs, logs.EXAMPLES)
add_command(app, "wait", wait.wait, wait.EXAMPLES)
add_command(app, "dump", info.dump, info.DUMP_EXAMPLES)
add_command(app, "version", info.version, info.VERSION_EXAMPLES)
add_command(app, "completion", info.completion, info.COMPLETION_EXAMPLES)


@app.callback()
def _connection_flags(
    ctx: typer.Context,
    endpoints: Endpoints = None,
    cert_dir: CertDir = None,
    disable_tls: DisableTls = False,
) -> None:
    ctx.obj = Connection.of(endpoints, cert_dir, disable_tls)


def _spelled(args: list[str]) -> list[str]:
    """``--flag=true|false`` of the on/off flags as the manual and kubectl's users write them."""
    words: list[str] = []
    for at, arg in enumerate(args):
        if arg == "--":
            return words + args[at:]
        flag, equals, value = arg.partition("=")
        if equals and flag in SWITCHES and value.lower() in ("true", "false"):
            words.append(flag if value.lower() == "true" else f"--no-{flag[2:]}")
        else:
            words.append(arg)
    return words


SWITCHES = frozenset({"--cascade", "--wait", "--events", "--dedicated"})
"""Flags that exist as ``--flag`` and ``--no-flag``."""


GC_THRESHOLD = 100_000
"""New objects after which the garbage collector looks at the young ones."""


def main() -> None:
    """Entry point. Ends the process with the exit code that ``cli.reporting`` lists."""
    # Thousands of parsed objects and no garbage among them: collecting as often as Python does by default costs a third
    # of the time that a big table takes.
    gc.set_threshold(GC_THRESHOLD, 50, 100)
    # gRPC's own log lines about failed handshakes would stand between ours, which say the same and the remedy.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        if info.COMPLETE_VARIABLE in os.environ:
            from typer.completion import completion_init  # type: ignore[attr-defined]

            completion_init()
        app(args=_spelled(sys.argv[1:]), prog_name="milpactl", complete_var=info.COMPLETE_VARIABLE)
    except (Exception, KeyboardInterrupt) as problem:
        sys.exit(report(problem))


if __name__ == "__main__":
    main()
