"""``get``: lists objects as tables or documents, once or for as long as they change."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from cli.complete import complete_target
from cli.connection import Connection
from cli.fields import sort_path
from cli.kinds import KindName, Target, parse_targets
from cli.output.documents import write
from cli.output.objects import Document, lookup, parse
from cli.reporting import FAILED, UsageError, error, note

if TYPE_CHECKING:
    from datetime import datetime

    from milpa_ray.client import Client

EXAMPLES = """
milpactl get pods                          # a table
milpactl get pods -o wide -l app=web       # more columns, by label
milpactl get pod web -o yaml               # the whole object
milpactl get pod/web node/4f2c... -o name  # several, of any kind
milpactl get pods,nodes                    # several kinds
milpactl get all                           # pods, services, deployments, replicasets, nodes
milpactl get pods -w                       # go on printing what changes
milpactl get pods --sort-by status.phase   # by any field
"""


class Output(StrEnum):
    """How objects are shown."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"
    NAME = "name"


@dataclass(frozen=True, slots=True)
class View:
    """What the user asked to see of the objects found."""

    output: Output
    selector: str = ""
    headers: bool = True
    sort_by: str = ""
    prefix: bool = False

    @property
    def is_table(self) -> bool:
        return self.output in (Output.TABLE, Output.WIDE)

    @property
    def wide(self) -> bool:
        return self.output is Output.WIDE


Targets = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="OBJECTS",
        help="KIND [NAME]..., or KIND/NAME... . KIND is a name such as pods, pod or po, several with commas, or all.",
        show_default=False,
        autocompletion=complete_target,
    ),
]
OutputOption = Annotated[Output, typer.Option("--output", "-o", help="How to show the objects.")]


def _checked_selector(ctx: typer.Context, text: str) -> str:
    """``text`` if it is a selector: a mistyped one is a matter of the command line, which no server need be asked for.

    Raises:
        UsageError: it is none.
    """
    if text and not ctx.resilient_parsing:
        from milpa_ray.api.selectors import SelectorError, parse_selector

        try:
            parse_selector(text)
        except SelectorError as problem:
            raise UsageError(f"-l: {problem}") from None
    return text


Selector = Annotated[
    str,
    typer.Option(
        "--selector",
        "-l",
        help="Only objects with these labels, as in 'env in (dev, qa),app=web'.",
        callback=_checked_selector,
    ),
]


def get(
    connection: Connection,
    targets: Targets = None,
    output: OutputOption = Output.TABLE,
    selector: Selector = "",
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Go on: print each object again as it changes.")] = False,
    no_headers: Annotated[bool, typer.Option("--no-headers", help="Leave the column titles out.")] = False,
    sort_by: Annotated[
        str, typer.Option("--sort-by", help="Order by this field, as in status.phase or spec.units[0].image.")
    ] = "",
) -> None:
    """Show objects: all of a kind, or those named."""
    wanted = parse_targets(targets or [])
    order = sort_path(sort_by, [target.kind for target in wanted])
    view = View(output, selector, not no_headers, order, prefix=len(wanted) > 1)
    if selector and any(target.names for target in wanted):
        raise UsageError("give either names or a selector (-l), not both")
    with connection.client() as client:
        if watch:
            from cli.commands.watching import follow

            follow(client, wanted, view)
        else:
            _show(client, wanted, view)


def _show(client: "Client", wanted: list[Target], view: View) -> None:
    found: list[list[Document]] = []
    missing: list[str] = []
    for target in wanted:
        objects = fetch(client, target, view.selector, missing.append)
        found.append(ordered(objects, target.kind, view.sort_by))
    everything = [obj for objects in found for obj in objects]
    if view.is_table:
        _show_tables(found, view)
        if not everything and not missing:
            note("No resources found.")
    elif everything or not missing:
        single = len(wanted) == 1 and len(wanted[0].names) == 1
        _show_documents(everything, view.output, single=single)
    for name in missing:
        error(name)
    if missing:
        raise typer.Exit(FAILED)


def fetch(client: "Client", target: Target, selector: str, missed: Callable[[str], None]) -> list[Document]:
    """The target's objects; for each name that does not exist, ``missed`` is told so."""
    from milpa_ray.errors import NotFound

    if not target.names:
        return parse(client.list_raw(target.kind.name, selector=selector))
    objects: list[Document] = []
    for name in target.names:
        try:
            objects += parse(client.list_raw(target.kind.name, name=name))
        except NotFound:
            missed(f'{target.kind.plural} "{name}" not found')
    return objects


def ordered(objects: list[Document], kind: KindName, sort_by: str) -> list[Document]:
    """By the given field; else events by time and everything else by name."""
    path = sort_by or ("metadata.creationTimestamp" if kind.name == "Event" else "metadata.name")
    return sorted(objects, key=lambda obj: _sort_key(lookup(obj, path), str(obj["metadata"].get("name", ""))))


def _sort_key(value: object, name: str) -> tuple[int, float, str, str]:
    """Without a value first, then numbers, then text; among equals by name."""
    if value is None:
        return (0, 0.0, "", name)
    if isinstance(value, int | float):
        return (1, float(value), "", name)
    return (2, 0.0, str(value), name)


def _show_tables(found: Iterable[list[Document]], view: View) -> None:
    from cli.output.tables import header, rows
    from cli.output.text import table

    moment = now()
    blocks = []
    for objects in found:
        if objects:
            lines = rows(objects, moment, wide=view.wide, prefix=view.prefix)
            titles = [header(objects[0]["kind"], wide=view.wide)] if view.headers else []
            blocks.append(table(titles + lines))
    write("\n".join(blocks))


def _show_documents(objects: list[Document], output: Output, *, single: bool) -> None:
    from cli.output import documents

    if output is Output.NAME:
        documents.write(documents.names(objects))
        return
    document = documents.bundle(objects, single=single)
    documents.write(documents.as_json(document) if output is Output.JSON else documents.as_yaml(document))


def now() -> "datetime":
    """The moment against which ages are shown."""
    from milpa_ray.clock import SystemClock

    return SystemClock().now()
