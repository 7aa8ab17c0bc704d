"""``create``, ``update`` and ``apply``: send the objects of manifests, and say what became of each."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cli.connection import Connection
from cli.reporting import FAILED, CommandFailed, error

if TYPE_CHECKING:
    from milpa_ray.api import Resource
    from milpa_ray.client import WriteResult

CREATE_EXAMPLES = """
milpactl create -f pod.yml             # one file, of one or many documents
milpactl create -f manifests/          # all .yml, .yaml and .json files of a folder
cat pod.yml | milpactl create -f -     # standard input
milpactl create -f pod.yml --dry-run   # check only
"""
UPDATE_EXAMPLES = """
milpactl update -f pod.yml             # change what exists
milpactl update -f a.yml -f b.yml
"""
APPLY_EXAMPLES = """
milpactl apply -f pod.yml              # create it, or change it if it exists
milpactl apply -f manifests/ -R        # a folder and those within
milpactl get pod web -o yaml | milpactl apply -f -
"""

Files = Annotated[
    list[str],
    typer.Option("--filename", "-f", metavar="FILE|DIR|-", help="Manifests; may be repeated.", show_default=False),
]
Recursive = Annotated[bool, typer.Option("--recursive", "-R", help="Read folders within folders as well.")]
Verb = Literal["create", "update", "apply"]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Have the server check the objects, but change nothing.")]


def create(connection: Connection, filename: Files, recursive: Recursive = False, dry_run: DryRun = False) -> None:
    """Create the objects of manifests.

    Nothing is sent when a manifest has errors. Objects that exist already are reported, the others are created;
    the exit code is 1 then.
    """
    _send(connection, "create", filename, recursive=recursive, dry_run=dry_run)


def update(connection: Connection, filename: Files, recursive: Recursive = False, dry_run: DryRun = False) -> None:
    """Change objects that exist to what their manifests say."""
    _send(connection, "update", filename, recursive=recursive, dry_run=dry_run)


def apply(connection: Connection, filename: Files, recursive: Recursive = False, dry_run: DryRun = False) -> None:
    """Create the objects of manifests, or change those that exist."""
    _send(connection, "apply", filename, recursive=recursive, dry_run=dry_run)


def _send(connection: Connection, verb: Verb, files: Sequence[str], *, recursive: bool, dry_run: bool) -> None:
    from cli.manifests import load_objects

    objects = load_objects(files, recursive=recursive)
    _refuse_lengths(objects)
    with connection.client() as client:
        call = {"create": client.create, "update": client.update, "apply": client.apply}[verb]
        results = call(objects, dry_run=dry_run)
    if not report_results(results, " (dry run)" if dry_run else ""):
        raise typer.Exit(FAILED)


def _refuse_lengths(objects: "Sequence[Resource]") -> None:
    """Raises `CommandFailed` for secrets that ``get`` has printed: they hold lengths in place of their values."""
    from cli.output.objects import is_length
    from milpa_ray.api import Secret

    shown = [obj.name for obj in objects if isinstance(obj, Secret) and any(map(is_length, obj.data.values()))]
    if shown:
        raise CommandFailed(
            *(
                f"secret/{name} holds the length of a value instead of the value, as milpactl get prints it; "
                "nothing was sent, as the value would be lost"
                for name in shown
            )
        )


DONE = {"CREATED": "created", "UPDATED": "updated", "UNCHANGED": "unchanged", "DELETED": "deleted"}
REFUSED = {
    "ALREADY_EXISTS": 'exists already (change it with "milpactl apply" or "milpactl update")',
    "NOT_FOUND": 'not found (create it with "milpactl create" or "milpactl apply")',
    "INVALID": "is invalid",
    "CONFLICT": "was changed by someone else meanwhile; try again",
    "FAILED": "failed",
}


def report_results(results: "Sequence[WriteResult]", suffix: str = "") -> bool:
    """One line per object: what was done on stdout, what was refused on stderr. Whether all was done."""
    good = True
    for result in results:
        outcome = outcome_name(result)
        label = f"{result.kind.lower()}/{result.name}"
        if outcome in DONE:
            print(f"{label} {DONE[outcome]}{suffix}", flush=True)
            continue
        good = False
        if outcome == "ENDED":  # neither another verb nor another try would help; the message says what does
            error(f"{label}: {result.message}")
            continue
        detail = f": {result.message}" if result.message and outcome in ("INVALID", "FAILED", "CONFLICT") else ""
        error(f"{label} {REFUSED.get(outcome, outcome)}{detail}")
    return good


def outcome_name(result: "WriteResult") -> str:
    """The outcome as the proto names it."""
    return result.outcome.name
