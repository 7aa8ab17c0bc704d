"""Decides from a watch when pods are where they were waited for. No I/O."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from milpa_ray.client import checks
from milpa_ray.client.results import Change, WaitFailed, WatchEvent
from milpa_ray.errors import Invalid, NotFound

if TYPE_CHECKING:
    from milpa_ray.api import Pod, PodPhase


class PodWait:
    """Waits for pods, named or selected by labels, to come into one of some phases. Making it raises ``Invalid`` for
    names, a selector or phases that are none."""

    def __init__(self, names: str | Iterable[str], selector: str, phases: str | Iterable[str]) -> None:
        from milpa_ray.api import PodPhase

        self.names = checks.texts("names", names)
        self._selector = checks.text("selector", selector)
        if not self.names and not selector:
            raise Invalid("names: wait needs names or a selector; pass names='web' or selector='app=web'")
        known = {phase.lower(): phase for phase in PodPhase}
        wanted = checks.texts("phases", phases)
        unknown = [phase for phase in wanted if phase.lower() not in known]
        if unknown or not wanted:
            what = f"pods have no phase {unknown[0]!r}" if unknown else "none is given"
            raise Invalid(f"phases: {what}; they have {', '.join(PodPhase)}")
        self._phases = {known[phase.lower()] for phase in wanted}
        self._pods: dict[str, Pod] = {}
        self._synced = False

    @property
    def watched_name(self) -> str:
        """The name to watch when there is but one; else all pods of the selector are."""
        return self.names[0] if len(self.names) == 1 else ""

    def feed(self, event: WatchEvent) -> list[Pod] | None:
        """Takes a change; all pods, in the order of the names, once each is in one of the phases.

        Raises:
            NotFound: a named pod does not exist, or none matches the selector.
            WaitFailed: a pod was deleted, or has ended in another phase.
        """
        if event.change is Change.SYNCED:
            self._sync()
        elif self.names and event.name not in self.names:
            return None
        elif event.change is Change.REMOVED:
            self._removed(event.name)
        else:
            self._changed(event)
        return self._done() if self._synced else None

    def missing(self) -> str:
        """Which pods are not there yet and in which phase they are, for the message of a time-out."""
        late = [f"{pod.name} is {pod.status.phase}" for pod in self._pods.values() if not self._reached(pod)]
        return ", ".join(late[:5]) + (f" and {len(late) - 5} more" if len(late) > 5 else "")

    @property
    def wanted(self) -> str:
        return " or ".join(sorted(self._phases))

    def _reached(self, pod: Pod) -> bool:
        return pod.status.phase in self._phases

    def _sync(self) -> None:
        self._synced = True
        absent = [name for name in self.names if name not in self._pods]
        if absent:
            raise NotFound(f"no pod named {', '.join(repr(name) for name in absent[:5])}")
        if not self._pods:
            raise NotFound(f"no pod matches {self._selector!r}")

    def _removed(self, name: str) -> None:
        pod = self._pods.pop(name, None)
        if self.names and pod is not None:
            raise WaitFailed(f"pod {name!r} was deleted before it was {self.wanted}")

    def _changed(self, event: WatchEvent) -> None:
        from milpa_ray.api import Pod
        from milpa_ray.api.phases import POD_TERMINAL

        pod = Pod.from_json(event.json)
        self._pods[pod.name] = pod
        phase: PodPhase = pod.status.phase
        if phase in POD_TERMINAL and phase not in self._phases:
            reason = pod.status.message or pod.status.reason or "no reason given"
            raise WaitFailed(f"pod {pod.name!r} is {phase} ({reason}) and will not be {self.wanted}")

    def _done(self) -> list[Pod] | None:
        if not all(self._reached(pod) for pod in self._pods.values()):
            return None
        return [self._pods[name] for name in (self.names or sorted(self._pods))]
