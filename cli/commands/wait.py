"""``wait``: blocks until objects are as wanted, for scripts. Ends early when they can no longer become so."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from cli.commands.get import Selector, Targets
from cli.connection import Connection
from cli.durations import parse_duration_s
from cli.fields import field_path, problem
from cli.kinds import Target, parse_targets
from cli.output.objects import Document, complete, lookup, phase
from cli.output.text import one_line
from cli.reporting import CommandFailed, UsageError

if TYPE_CHECKING:
    from milpa_ray.client import Client, WatchEvent

ONE_LOOK_S = 0.5
"""Even with the time-out 0 there is time to look once."""
PHASE_FIELD = "status.phase"
FORMS = "write phase=Running, deleted, or FIELD=VALUE such as status.availableReplicas=3"
EXAMPLES = """
milpactl wait pod web --for=phase=Running --timeout=60s
milpactl wait pods -l job=42 --for=phase=Succeeded
milpactl wait pod/web --for=deleted
milpactl wait rs/web --for=status.availableReplicas=3
"""


@dataclass(frozen=True, slots=True)
class Condition:
    """A field that must have a value, or, without a field, an object that must be gone."""

    field: str = ""
    value: str = ""

    @property
    def gone(self) -> bool:
        return not self.field

    def met(self, obj: Document) -> bool:
        return not self.gone and _text(lookup(obj, self.field)).lower() == self.value.lower()

    def hopeless(self, obj: Document) -> bool:
        """Whether the object is in a phase that it never leaves, and not the one waited for."""
        return self.field == PHASE_FIELD and phase(obj) in _final_phases(obj["kind"]) and not self.met(obj)

    def __str__(self) -> str:
        return "deleted" if self.gone else f"{self.field.removeprefix('status.')}={self.value}"


def wait(
    connection: Connection,
    condition: Annotated[
        str,
        typer.Option("--for", metavar="CONDITION", help="phase=NAME, deleted, or FIELD=VALUE.", show_default=False),
    ],
    targets: Targets = None,
    selector: Selector = "",
    timeout: Annotated[str, typer.Option("--timeout", metavar="DURATION", help="How long to wait.")] = "30s",
) -> None:
    """Wait until objects are in a phase, or deleted.

    Any other field can be waited for as well. Fails at once when a pod has ended in another phase. The exit code is 1
    then, and after the time-out.
    """
    timeout_s = parse_duration_s(timeout)
    wanted = parse_targets(targets or [])
    named = all(target.names for target in wanted)
    if named == bool(selector):
        raise UsageError("say which objects: by name, or by label (-l app=web)")
    goal = parse_condition(condition, wanted)
    from milpa_ray.clock import SystemClock

    clock = SystemClock()
    deadline = clock.monotonic() + timeout_s
    failures: list[str] = []
    with connection.client() as client:
        for target in wanted:
            left_s = max(deadline - clock.monotonic(), ONE_LOOK_S)
            failures += Waiting(target, goal, selector).run(client, left_s, timeout)
    if failures:
        raise CommandFailed(*failures)


def parse_condition(text: str, wanted: Sequence[Target]) -> Condition:
    """Reads ``--for``.

    Raises:
        UsageError: it is no condition, or names a field or phase that a kind does not have.
    """
    plain = text.strip()
    if plain.lower() in ("delete", "deleted"):
        return Condition()
    field, equals, value = plain.removeprefix("jsonpath=").partition("=")  # kubectl's users write that before a field
    field = field_path(field.strip(" '\""))
    if not equals or not field or not value:
        raise UsageError(f'--for: "{text}" is no condition; {FORMS}')
    field = PHASE_FIELD if field.lower() in ("phase", PHASE_FIELD) else field
    for target in wanted:
        if reason := problem(target.kind, field):
            raise UsageError(f'--for: "{text}" can\'t be waited for: {reason}; {FORMS}')
    if field != PHASE_FIELD:
        return Condition(field, value)
    for target in wanted:
        known = _phases(target.kind.name)
        spelled = {name.lower(): name for name in known}
        if known and value.lower() not in spelled:
            raise UsageError(f'{target.kind.plural} have no phase "{value}"; they have {", ".join(known)}')
        value = spelled.get(value.lower(), value)
    return Condition(PHASE_FIELD, value)


def _phases(kind: str) -> list[str]:
    from milpa_ray.api import NodePhase, PodPhase
    from milpa_ray.api.workloads import DeploymentPhase

    phases = {"Pod": PodPhase, "Node": NodePhase, "Deployment": DeploymentPhase}
    return [str(name) for name in phases[kind]] if kind in phases else []


def _final_phases(kind: str) -> frozenset[str]:
    from milpa_ray.api.phases import NODE_TRANSITIONS, POD_TERMINAL

    if kind == "Pod":
        return frozenset(str(name) for name in POD_TERMINAL)
    return frozenset(str(name) for name, after in NODE_TRANSITIONS.items() if kind == "Node" and not after)


def _text(value: object) -> str:
    return json.dumps(value) if isinstance(value, bool | dict | list) else str(value)


class Waiting:
    """Waits for the objects of one kind, and says of each when it is as wanted.

    ``_pending`` holds the last known state of those that are not: None until it has been seen.
    """

    def __init__(self, target: Target, goal: Condition, selector: str) -> None:
        self._kind = target.kind
        self._goal = goal
        self._selector = selector
        self._pending: dict[str, Document | None] = dict.fromkeys(target.names)
        self._synced = False
        self._found = False
        self._failures: list[str] = []

    def run(self, client: "Client", left_s: float, timeout: str) -> list[str]:
        """Waits ``left_s`` seconds at most. Why some objects are not as wanted; empty when all are."""
        only = next(iter(self._pending)) if len(self._pending) == 1 else ""
        watch = client.watch(self._kind.name, name=only, selector=self._selector, timeout_s=left_s)
        for event in watch:
            if event.change == "synced":
                self._all_told()
            elif not self._selector and event.name not in self._pending:
                continue
            elif event.change == "removed":
                self._removed(event.name)
            else:
                self._changed(event)
            if self._synced and not self._pending:
                return self._failures
        return [*self._failures, *(self._late(name, obj, timeout) for name, obj in self._pending.items())]

    def _changed(self, event: "WatchEvent") -> None:
        if self._synced and event.name not in self._pending:
            return
        self._found = True
        obj = complete(json.loads(event.json))
        self._pending[event.name] = obj
        if self._goal.met(obj):
            self._done(event.name)
        elif self._goal.hopeless(obj):
            self._fail(event.name, f"is {phase(obj)}{_because(obj)} and will not become {self._goal.value}")

    def _removed(self, name: str) -> None:
        if name not in self._pending:
            return
        if self._goal.gone:
            self._done(name)
        else:
            self._fail(name, f"was deleted before it had {self._goal}")

    def _all_told(self) -> None:
        self._synced = True
        if self._selector and not self._found and not self._goal.gone:
            self._failures.append(f'no {self._kind.plural} match "{self._selector}"')
        for name in [name for name, obj in self._pending.items() if obj is None]:
            if self._goal.gone:
                self._done(name)
            else:
                del self._pending[name]
                self._failures.append(f'{self._kind.plural} "{name}" not found')

    def _done(self, name: str) -> None:
        del self._pending[name]
        print(f"{self._kind.lower}/{name} {self._goal}", flush=True)

    def _fail(self, name: str, why: str) -> None:
        del self._pending[name]
        self._failures.append(f"{self._kind.lower}/{name} {why}")

    def _late(self, name: str, obj: Document | None, timeout: str) -> str:
        verb = "be" if self._goal.gone else "have"
        start = f"timed out after {timeout} waiting for {self._kind.lower}/{name} to {verb} {self._goal}"
        if obj is None:
            return start
        now = phase(obj) if self._goal.gone else _text(lookup(obj, self._goal.field))
        return f"{start}; it is {now}{_because(obj)}" if now else start


def _because(obj: Document) -> str:
    status = obj.get("status", {})
    reason = status.get("message") or status.get("reason")
    return f" ({one_line(str(reason))})" if reason else ""
