"""The flags that say which server to talk to, and the frame in which every command runs.

The flags may stand before the command or after it; after wins. What no flag says the client finds for itself, in the
environment. The frame
(`add_command`) turns whatever goes wrong inside a command into a message and an exit code.
"""

import functools
import inspect
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.reporting import UsageError, report

if TYPE_CHECKING:
    from milpa_ray.client import Client

DEFAULT_TIMEOUT_S = 30.0
DEFAULT_RETRY_S = 1.0

Endpoints = Annotated[
    list[str] | None,
    typer.Option(
        "--endpoints",
        metavar="HOST:PORT,...",
        help="Servers, any of which may be asked (env MILPA_ENDPOINTS). Default: localhost:54555.",
        show_default=False,
    ),
]
CertDir = Annotated[
    Path | None,
    typer.Option(
        "--cert-dir",
        metavar="DIR",
        help="Folder with ca.crt, client.crt and client.key (env MILPA_CERT_DIR).",
        show_default=False,
    ),
]
DisableTls = Annotated[
    bool,
    typer.Option("--disable-tls", help="Talk in plain text; the server must have been started with the same flag."),
]


@dataclass(frozen=True, slots=True)
class Connection:
    """Where and how to reach the server, as far as the user has said it."""

    endpoints: tuple[str, ...] = ()
    cert_dir: Path | None = None
    disable_tls: bool = False

    @classmethod
    def of(cls, endpoints: Sequence[str] | None, cert_dir: Path | None, disable_tls: bool) -> "Connection":
        from milpa_ray.client.discovery import split_endpoints

        return cls(split_endpoints(endpoints or ()), cert_dir, disable_tls)

    def over(self, outer: "Connection") -> "Connection":
        """These settings, and ``outer``'s where these say nothing."""
        return Connection(
            self.endpoints or outer.endpoints, self.cert_dir or outer.cert_dir, self.disable_tls or outer.disable_tls
        )

    @contextmanager
    def client(self, timeout_s: float = DEFAULT_TIMEOUT_S, retry_s: float = DEFAULT_RETRY_S) -> Iterator["Client"]:
        """A client for the duration of the block. ``timeout_s`` bounds each call that is no stream, ``retry_s`` how
        long a server that does not answer is asked again.

        Raises:
            UsageError: an endpoint is none.
        """
        from milpa_ray.client import Client
        from milpa_ray.errors import Invalid

        try:
            client = Client(
                endpoints=self.endpoints or None,
                cert_dir=self.cert_dir,
                tls=not self.disable_tls,
                timeout_s=timeout_s,
                retry_s=retry_s,
            )
        except Invalid as problem:
            raise UsageError(f"--endpoints: {problem}") from None
        try:
            yield client
        finally:
            client.close()


def _flags(endpoints: Endpoints = None, cert_dir: CertDir = None, disable_tls: DisableTls = False) -> None:
    """Only its signature counts: these flags are added to every command."""


def add_command(app: typer.Typer, name: str, function: Callable[..., None], examples: str) -> None:
    """Makes ``function`` the command ``name``; its docstring is the help, ``examples`` is shown below it.

    The function gets the ``Connection`` first, then its own parameters. The connection flags are added to these, and
    whatever it raises ends up in `report`.
    """
    own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
    flags = list(inspect.signature(_flags).parameters.values())
    context = inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)

    def run(**values: Any) -> None:
        outer: Connection = values.pop("ctx").obj or Connection()
        connection = Connection.of(*(values.pop(flag.name) for flag in flags)).over(outer)
        _guarded(functools.partial(function, connection, **values))

    parameters = [context, *(p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*own, *flags))]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    run.__doc__ = function.__doc__
    app.command(name, epilog="\b\nExamples:\n" + textwrap.indent(inspect.cleandoc(examples), "  "))(run)


def _guarded(call: Callable[[], None]) -> None:
    """Runs the command. Flushes here, so that a reader gone away is noticed while it can still be handled."""
    try:
        call()
        sys.stdout.flush()
    except (typer.Exit, typer.Abort, typer.BadParameter):
        raise
    except (Exception, KeyboardInterrupt) as problem:
        raise typer.Exit(report(problem)) from None
