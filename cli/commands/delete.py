"""``delete``: asks for the end of objects and, unless told otherwise, waits until they are gone."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
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
MOST_LINES = 20
"""Objects of a kind that are reported one by one; more are only counted, unless the user wants them all."""
EXAMPLES = """
milpactl delete pod web                            # and wait until its node has proved its end
milpactl delete pod/web svc/web --no-wait          # only ask for it
milpactl delete -f pod.yml                         # what a manifest names
milpactl delete pods -l app=web
milpactl delete pods --all
milpactl delete secrets -l job=42 -o name          # names what is gone, however many there are
milpactl delete --cascade=false deployment web     # its replicasets and pods stay
"""


class Output(StrEnum):
    """How deleted objects are reported."""

    NAME = "name"


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
    output: Annotated[
        Output | None, typer.Option("--output", "-o", help="Print only names, of all objects.", show_default=False)
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help=f"A line for each object, also of more than {MOST_LINES} of a kind.")
    ] = False,
) -> None:
    """Delete objects by name, by label, or by manifest.

    Deleting a pod also terminates the node it runs on. The name stays taken until the end is proved, which is what
    this command waits for; interrupting it does not stop the deletion. Many objects of a kind are only counted.
    """
    timeout_s = parse_duration_s(timeout)
    wanted = _wanted(targets or [], filename or [], selector=selector, everything=everything)
    with connection.client() as client:
        refs = _from_files(filename, recursive=recursive) if filename else _refs(client, wanted, selector)
        if not refs:
            note("No resources found.")
            return
        results = client.delete_refs(refs, cascade=cascade)
        asked, good = _sort_out(results, ignore_not_found=ignore_not_found, verbose=verbose)
        tally = _Tally(asked, "deleted" if wait else "deletion requested", output, verbose=verbose)
        try:
            if wait:
                good = _await_end(client, asked, timeout_s, tally) and good
            else:
                for result in asked:
                    tally.done(result.kind, result.name)
        finally:
            tally.sum_up()
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


def _sort_out(
    results: "Iterable[WriteResult]", *, ignore_not_found: bool, verbose: bool
) -> "tuple[list[WriteResult], bool]":
    """The results whose objects are on their way out, and whether all was well. Reports what was not: unless
    ``verbose``, what many were refused for is said once."""
    asked: list[WriteResult] = []
    refused: dict[tuple[str, str], list[str]] = {}
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
            refused.setdefault((result.kind, result.message or str(result.outcome)), []).append(result.name)
    for (kind, why), names in refused.items():
        more = f" and {len(names) - 1} more {kind_called(kind).plural}" if len(names) > 1 and not verbose else ""
        for name in names if verbose else names[:1]:
            error(f"{_label(kind, name)}{more}: {why}")
    return asked, good


class _Tally:
    """Reports objects as they are done: each by a line, or many of a kind by their number at the end."""

    def __init__(self, asked: "Iterable[WriteResult]", what: str, output: Output | None, *, verbose: bool) -> None:
        self._what = what
        self._names_only = output is Output.NAME
        many = Counter(result.kind for result in asked)
        self._counted = {kind: 0 for kind, number in many.items() if number > MOST_LINES and not verbose and not output}

    def done(self, kind: str, name: str) -> None:
        if kind in self._counted:
            self._counted[kind] += 1
        else:
            print(_label(kind, name) if self._names_only else f"{_label(kind, name)} {self._what}", flush=True)

    def sum_up(self) -> None:
        for kind, number in self._counted.items():
            if number:
                print(f"{number} {kind_called(kind).plural} {self._what}", flush=True)
        self._counted.clear()


def _await_end(client: "Client", asked: "Sequence[WriteResult]", timeout_s: float, tally: _Tally) -> bool:
    """Tells of each object as it goes. Whether all are gone in time."""
    from milpa_ray.clock import SystemClock

    clock = SystemClock()
    deadline = clock.monotonic() + timeout_s
    left: list[str] = []
    for kind in dict.fromkeys(result.kind for result in asked):
        pending = {result.name: result.uid for result in asked if result.kind == kind}
        for name in _watch_out(client, kind, pending, max(deadline - clock.monotonic(), ONE_LOOK_S)):
            tally.done(kind, name)
        left += [_label(kind, name) for name in pending]
    for label in left[:MOST_LINES]:
        error(f"{label} is still there after {timeout_s:g} s; its deletion goes on (wait longer with --timeout)")
    if len(left) > MOST_LINES:
        error(f"and {len(left) - MOST_LINES} more are still there")
    return not left


def _watch_out(client: "Client", kind: str, pending: dict[str, str], timeout_s: float) -> Iterator[str]:
    """Takes out of ``pending`` (uids by name) and tells what is gone, until nothing is left or the time is over.

    An object of the same name with another uid is a successor: the one waited for is gone.
    """
    import json

    only = next(iter(pending)) if len(pending) == 1 else ""
    present: dict[str, str] = {}
    for event in client.watch(kind, name=only, timeout_s=timeout_s):
        if event.change == "synced":
            for name in [name for name in pending if name not in present]:
                del pending[name]
                yield name
            if pending:
                _say_waiting(kind, {name: present[name] for name in pending})
        elif event.name in pending:
            obj = {"kind": kind, **json.loads(event.json)}
            uid = obj.get("metadata", {}).get("uid", "")
            successor = bool(pending[event.name]) and uid != pending[event.name]
            # A node's record outlives its instance for a while; what was asked for is the instance's end.
            ended = kind == "Node" and phase(obj) == "Terminated"
            if event.change == "removed" or ended or (successor and event.change != "present"):
                del pending[event.name]
                yield event.name
            elif not successor:
                present[event.name] = phase(obj)
        if not pending:
            return


def _say_waiting(kind: str, phases: dict[str, str]) -> None:
    name, state = next(iter(phases.items()))
    if len(phases) == 1:
        note(f"Waiting for {_label(kind, name)} to end{f' (it is {state})' if state else ''} ...")
    else:
        note(f"Waiting for {len(phases)} {kind_called(kind).plural} to end ...")


def _label(kind: str, name: str) -> str:
    return f"{kind.lower()}/{name}"
