"""``describe``: all that helps a person understand an object, and what happened to it lately."""

from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from cli.commands.get import Selector, Targets, fetch, now, ordered
from cli.connection import Connection
from cli.kinds import parse_targets
from cli.output.documents import write
from cli.output.objects import Document, parse
from cli.reporting import FAILED, UsageError, error, note

if TYPE_CHECKING:
    from milpa_ray.client import Client

MOST_EVENTS = 20
FEW_NODES = 3
EXAMPLES = """
milpactl describe pod web
milpactl describe pod/web node/4f2c...
milpactl describe pods -l app=web
"""


def describe(
    connection: Connection,
    targets: Targets = None,
    selector: Selector = "",
    events: Annotated[bool, typer.Option("--events/--no-events", help="Show recent events of the object.")] = True,
) -> None:
    """Describe objects, with their recent events."""
    from cli.output.describe import description

    wanted = parse_targets(targets or [])
    if selector and any(target.names for target in wanted):
        raise UsageError("give either names or a selector (-l), not both")
    missing: list[str] = []
    with connection.client() as client:
        found = [
            obj
            for target in wanted
            for obj in ordered(fetch(client, target, selector, missing.append), target.kind, "")
        ]
        nodes = _nodes_of(client, found)
        happened = parse(client.list_raw("Event")) if events and found else []
    moment = now()
    texts = [
        description(obj, _events_of(obj, happened) if events else None, moment, nodes.get(_bound(obj))) for obj in found
    ]
    write("\n\n".join(texts))
    if not found and not missing:
        note("No resources found.")
    for name in missing:
        error(name)
    if missing:
        raise typer.Exit(FAILED)


def _bound(obj: Document) -> str:
    """The name of a pod's node; empty for none, and for other objects."""
    return str(obj.get("status", {}).get("boundNodeName", "")) if obj["kind"] == "Pod" else ""


def _nodes_of(client: "Client", found: list[Document]) -> dict[str, Document]:
    """The nodes of the pods, by name: asked for one by one when they are few, else all at once."""
    from milpa_ray.errors import NotFound

    names = {name for obj in found if (name := _bound(obj))}
    if len(names) > FEW_NODES:
        return {node["metadata"]["name"]: node for node in parse(client.list_raw("Node"))}
    nodes: dict[str, Document] = {}
    for name in names:
        with suppress(NotFound):  # gone since
            nodes[name] = parse(client.list_raw("Node", name=name))[0]
    return nodes


def _events_of(obj: Document, happened: list[Document]) -> list[Document]:
    """The newest events of this very object, oldest first. Where an event knows no uid, kind and name must do."""
    uid, name = obj["metadata"].get("uid"), obj["metadata"].get("name")

    def concerns(event: Document) -> bool:
        about = event.get("involvedObject", {})
        same = (about.get("kind"), about.get("name")) == (obj["kind"], name)
        return same and about.get("uid") in (None, "", uid)

    found = [event for event in happened if concerns(event)]
    found.sort(key=lambda event: str(event["metadata"].get("creationTimestamp", "")))
    return found[-MOST_EVENTS:]
