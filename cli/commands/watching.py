"""``get --watch``: prints what is there, then every change as it comes, until interrupted."""

import json
from typing import TYPE_CHECKING

from cli.commands.get import fetch, now, ordered
from cli.kinds import Target
from cli.output import documents
from cli.output.objects import Document, complete
from cli.reporting import CommandFailed, UsageError

if TYPE_CHECKING:
    from cli.commands.get import View
    from milpa_ray.client import Client

REMOVED_MARK = "Deleted"


def follow(client: "Client", wanted: list[Target], view: "View") -> None:
    """Prints until the stream ends or the user interrupts.

    Raises:
        UsageError: more than one kind.
    """
    if len(wanted) > 1:
        raise UsageError("--watch follows one kind at a time; name a single kind")
    target = wanted[0]
    name = target.names[0] if len(target.names) == 1 else ""
    names = frozenset(target.names)
    if name:
        # A name that does not exist is an error here as everywhere, not an endless wait.
        missing: list[str] = []
        fetch(client, target, "", missing.append)
        if missing:
            raise CommandFailed(*missing)
    printer = _Table(target, view) if view.is_table else _Documents(view)
    present: list[Document] = []
    synced = False
    for event in client.watch(target.kind.name, name=name, selector=view.selector):
        if event.change == "synced":
            synced = True
            printer.show(ordered(present, target.kind, view.sort_by))
            continue
        if names and event.name not in names:
            continue
        document = json.loads(event.json)
        if synced:
            printer.show([document], removed=event.change == "removed")
        else:
            present.append(document)


class _Documents:
    """Every object as a document of its own, one after the other."""

    def __init__(self, view: "View") -> None:
        self._output = view.output.value

    def show(self, objects: list[Document], *, removed: bool = False) -> None:
        for obj in objects:
            if self._output == "name":
                documents.write(documents.names([obj]))
            elif self._output == "json":
                documents.write(documents.as_json(complete(obj)))
            else:
                documents.write("---\n" + documents.as_yaml(complete(obj)))


class _Table:
    """Rows under one header. Columns widen when a longer cell comes; what is printed already stays as it is."""

    def __init__(self, target: Target, view: "View") -> None:
        from cli.output.tables import header

        self._kind = target.kind.name
        self._wide = view.wide
        self._titles = header(self._kind, wide=view.wide)
        self._pending_header = view.headers
        self._widths = [len(title) for title in self._titles]

    def show(self, objects: list[Document], *, removed: bool = False) -> None:
        from cli.output.tables import rows
        from cli.output.text import columns, widths

        if not objects or (removed and self._kind in ("Event", "LogFile")):
            return
        lines = rows(objects, now(), wide=self._wide)
        if removed:
            self._mark(lines[0])
        if self._pending_header:
            lines.insert(0, self._titles)
            self._pending_header = False
        self._widths = [max(pair) for pair in zip(self._widths, widths(lines), strict=True)]
        documents.write(columns(lines, self._widths))

    def _mark(self, row: list[str]) -> None:
        """Says that the object is gone: in place of its phase, or of its age where it has none."""
        title = "PHASE" if "PHASE" in self._titles else "AGE"
        row[self._titles.index(title)] = REMOVED_MARK
