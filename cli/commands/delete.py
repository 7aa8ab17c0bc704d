"""``delete``: asks for the end of objects and, unless told otherwise, waits until they are gone."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from cli.commands.get import Selector
from cli.complete import complete_target
from cli.connection import Connection
from cli.durations import parse_duration_s
from cli.kinds import Target, kind_called, parse_targets
from cli.output.objects import phase
from cli.reporting import FAILED, UsageError, error, note

if TYPE_CHECKING:
    from milpa_ray.client import Client, Ref, WriteResult

ONE_LOOK_S = 0.5
"""Even with the time-out 0 there is time to look once."""
EXAMPLES = """
milpactl delete pod web                            # and wait until its node has proved its end
milpactl delete pod/web svc/web --no-wait          # only ask for it
milpactl delete -f pod.yml                         # what a manifest names
milpactl delete pods -l app=web
milpactl delete pods --all
milpactl delete --cascade=false deployment web     # its replicasets and pods stay
"""


def delete(
    connection: Connection,
    targets: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="OBJECTS",
            help="KIND NAME..., or KIND/NAME..., or a KIND with -l or --all.",
            show_default=False,
            autocompletion=complete_target,
        ),
    ] = None,
    filename: Annotated[
        list[str] | None,
        typer.Option("--filename", "-f", metavar="FILE|DIR|-", help="Manifests that name objects; may be repeated."),
    ] = None,
    recursive: Annotated[bool, typer.Option("--recursive", "-R", help="Read folders within folders as well.")] = False,
    selector: Selector = "",
    everything: Annotated[bool, typer.Option("--all", help="All objects of the kind.")] = False,
    cascade: Annotated[
        bool, typer.Option("--cascade/--no-cascade", help="Also delete what the object has created (--cascade=false).")
    ] = True,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until the objects are gone.")] = True,
    timeout: Annotated[str, typer.Option("--timeout", metavar="DURATION", help="How long to wait.")] = "10m",
    ignore_not_found: Annotated[
        bool, typer.Option("--ignore-not-found", help="An object that does not exist is no error.")
    ] = False,
) -> None:
    """Delete objects by name, by label, or by manifest.

    Deleting a pod also terminates the node it runs on. The name stays taken until the end is proved, which is what
    this command waits for; interrupting it does not stop the deletion.
    """
    timeout_s = parse_duration_s(timeout)
    wanted = _wanted(targets or [], filename or [], selector=selector, everything=everything)
    with connection.client() as client:
        refs = _from_files(filename, recursive=recursive) if filename else _refs(client, wanted, selector)
        if not refs:
            note("No resources found.")
            return
        results = client.delete_refs(refs, cascade=cascade)
        asked, good = _sort_out(results, ignore_not_found=ignore_not_found)
        if wait:
            good = _await_end(client, asked, timeout_s) and good
        else:
            for result in asked:
                print(f"{_label(result.kind, result.name)} deletion requested")
    if not good:
        raise typer.Exit(FAILED)


def _wanted(targets: Sequence[str], files: Sequence[str], *, selector: str, everything: bool) -> list[Target]:
    if files:
        if targets or selector or everything:
            raise UsageError("give either manifests (-f) or kinds and names, not both")
        return []
    wanted = parse_targets(targets)
    named = any(target.names for target in wanted)
    if named and (selector or everything):
        raise UsageError("give either names, or a selector (-l), or --all")
    if not named and not selector and not everything:
        raise UsageError(f"say which {wanted[0].kind.plural}: by name, by label (-l app=web), or all of them (--all)")
    return wanted


def _from_files(files: Sequence[str], *, recursive: bool) -> "list[Ref]":
    from cli.manifests import load_references
    from milpa_ray.client import Ref

    return [Ref(found.kind, found.name) for found in load_references(files, recursive=recursive)]


def _refs(client: "Client", wanted: Iterable[Target], selector: str) -> "list[Ref]":
    """References to the named objects, or to those listed; the latter with uid, so that no successor is hit."""
    import json

    from milpa_ray.client import Ref

    refs: list[Ref] = []
    for target in wanted:
        kind = target.kind.name
        if target.names:
            refs += [Ref(kind, name) for name in target.names]
            continue
        for data in client.list_raw(kind, selector=selector):
            meta = json.loads(data)["metadata"]
            refs.append(Ref(kind, meta["name"], meta.get("uid", "")))
    return refs


def _sort_out(results: "Iterable[WriteResult]", *, ignore_not_found: bool) -> "tuple[list[WriteResult], bool]":
    """The results whose objects are on their way out, and whether all was well. Reports what was not."""
    asked: list[WriteResult] = []
    good = True
    for result in results:
        if result.ok:
            asked.append(result)
        elif result.outcome.name == "NOT_FOUND":
            if not ignore_not_found:
                good = False
                error(f'{kind_called(result.kind).plural} "{result.name}" not found')
        else:
            good = False
            error(f"{_label(result.kind, result.name)}: {result.message or result.outcome}")
    return asked, good


def _await_end(client: "Client", asked: "Sequence[WriteResult]", timeout_s: float) -> bool:
    """Prints each object as it goes. Whether all are gone in time."""
    from milpa_ray.clock import SystemClock

    clock = SystemClock()
    deadline = clock.monotonic() + timeout_s
    left: list[str] = []
    for kind in dict.fromkeys(result.kind for result in asked):
        pending = {result.name: result.uid for result in asked if result.kind == kind}
        _watch_out(client, kind, pending, max(deadline - clock.monotonic(), ONE_LOOK_S))
        left += [_label(kind, name) for name in pending]
    for label in left:
        error(f"{label} is still there after {timeout_s:g} s; its deletion goes on (wait longer with --timeout)")
    return not left


def _watch_out(client: "Client", kind: str, pending: dict[str, str], timeout_s: float) -> None:
    """Takes out of ``pending`` (uids by name) what is gone, until nothing is left or the time is over.

    An object of the same name with another uid is a successor: the one waited for is gone.
    """
    import json

    only = next(iter(pending)) if len(pending) == 1 else ""
    present: dict[str, str] = {}
    for event in client.watch(kind, name=only, timeout_s=timeout_s):
        if event.change == "synced":
            for name in [name for name in pending if name not in present]:
                _gone(kind, name, pending)
            if pending:
                _say_waiting(kind, {name: present[name] for name in pending})
        elif event.name in pending:
            obj = {"kind": kind, **json.loads(event.json)}
            uid = obj.get("metadata", {}).get("uid", "")
            successor = bool(pending[event.name]) and uid != pending[event.name]
            # A node's record outlives its instance for a while; what was asked for is the instance's end.
            ended = kind == "Node" and phase(obj) == "Terminated"
            if event.change == "removed" or ended or (successor and event.change != "present"):
                _gone(kind, event.name, pending)
            elif not successor:
                present[event.name] = phase(obj)
        if not pending:
            return


def _gone(kind: str, name: str, pending: dict[str, str]) -> None:
    del pending[name]
    print(f"{_label(kind, name)} deleted", flush=True)


def _say_waiting(kind: str, phases: dict[str, str]) -> None:
    name, state = next(iter(phases.items()))
    if len(phases) == 1:
        note(f"Waiting for {_label(kind, name)} to end{f' (it is {state})' if state else ''} ...")
    else:
        note(f"Waiting for {len(phases)} {kind_called(kind).plural} to end ...")


def _label(kind: str, name: str) -> str:
    return f"{kind.lower()}/{name}"
