"""Starts, finds and stops the controller actors of one Ray cluster.

Actors are detached and found by name, so they outlive the process that started them; starting twice finds the first.
All functions need a connected driver (``RayCluster.connected``). What the actors run is none of this module's business.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from milpa_ray.errors import MilpaError
from shards.actors import ActorConfig, Build, ControllerActor
from shards.ray_cluster import NAMESPACE

ASK_TIMEOUT_S = 2.0
POLL_S = 0.05
STOP_TIMEOUT_S = 5.0

Progress = Callable[[str], None]
"""Told what was reached, in words for people."""


class LaunchFailed(MilpaError):
    """The controllers did not become ready. Fit for a user."""


@dataclass(frozen=True, slots=True)
class ActorSpec:
    """One actor that is to exist. ``host``: the Ray address of the host that it must run on; empty: any."""

    kind: type[ControllerActor]
    build: Build
    config: ActorConfig
    host: str = ""


@dataclass(frozen=True, slots=True)
class ActorStatus:
    """An actor as it answered. ``error`` is empty unless something is wrong with it."""

    name: str
    pid: int = 0
    ready: bool = False
    age_s: float = 0.0
    error: str = ""


def hosts() -> list[str]:
    """Ray addresses of the living hosts of the cluster, sorted."""
    import ray

    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return sorted(node["NodeManagerAddress"] for node in nodes if node["Alive"])


def start_actors(specs: Sequence[ActorSpec], timeout_s: float, progress: Progress = lambda _text: None) -> None:
    """Starts what does not exist yet, all in parallel, and waits until every actor is ready.

    Raises:
        LaunchFailed: some were not ready within ``timeout_s`` seconds; says which and why.
    """
    import ray

    handles = {}
    for spec in specs:
        options: dict[str, Any] = {
            "name": spec.config.name,
            "namespace": NAMESPACE,
            "lifetime": "detached",
            "get_if_exists": True,
            "num_cpus": 0,
            "max_restarts": -1,
            "max_task_retries": 0,
        }
        if spec.host:
            options["resources"] = {f"node:{spec.host}": 0.001}
        handles[spec.config.name] = ray.remote(spec.kind).options(**options).remote(spec.build, spec.config)
    _wait_ready(handles, timeout_s, progress)


def _wait_ready(handles: dict[str, Any], timeout_s: float, progress: Progress) -> None:
    deadline = time.monotonic() + timeout_s
    waiting = dict(handles)
    reasons = dict.fromkeys(handles, "not ready yet")
    while waiting:
        for status in _ask(waiting):
            # What an actor said of itself last tells more than that it is being restarted for it just now.
            if status.error and (status.pid or reasons[status.name] == "not ready yet"):
                reasons[status.name] = status.error
            if status.ready:
                del waiting[status.name]
                progress(f"{status.name} is ready (process {status.pid})")
        if waiting and time.monotonic() > deadline:
            told = "; ".join(f"{name}: {reasons[name]}" for name in sorted(waiting))
            raise LaunchFailed(f"not ready within {timeout_s:.0f} s: {told}")
        if waiting:
            time.sleep(POLL_S)


def actor_names() -> list[str]:
    """Names of the actors that exist, sorted."""
    import ray

    return sorted(ray.util.list_named_actors())


def statuses() -> list[ActorStatus]:
    """All actors that exist, by name; those that don't answer have an ``error``."""
    return _ask(_handles())


def dumps(only: str = "") -> dict[str, Any]:
    """The state of each actor, or of that one, if it answers, by name."""
    import ray

    asked = {name: handle.dump.remote() for name, handle in _handles().items() if only in ("", name)}
    found: dict[str, Any] = {}
    for name, reference in asked.items():
        try:
            found[name] = ray.get(reference, timeout=ASK_TIMEOUT_S)
        except (ray.exceptions.RayError, TimeoutError) as error:
            found[name] = {"error": _first_line(error)}
    return found


def stop_actors() -> None:
    """Asks all actors to end their loops in good order, for at most 5 s. Ray's own end is to follow."""
    import ray

    asked = [handle.stop.remote() for handle in _handles().values()]
    if asked:
        ray.wait(asked, num_returns=len(asked), timeout=STOP_TIMEOUT_S)


def _handles() -> dict[str, Any]:
    import ray

    handles = {}
    for name in actor_names():
        try:
            handles[name] = ray.get_actor(name, namespace=NAMESPACE)
        except ValueError:
            continue  # it has died for good since it was listed
    return handles


def _ask(handles: dict[str, Any]) -> list[ActorStatus]:
    """Asks all at once; one that does not answer in time gets an error instead."""
    import ray

    asked = {name: handle.status.remote() for name, handle in handles.items()}
    ray.wait(list(asked.values()), num_returns=len(asked), timeout=ASK_TIMEOUT_S)
    found = []
    for name, reference in asked.items():
        try:
            found.append(ActorStatus(**ray.get(reference, timeout=0)))
        except ray.exceptions.GetTimeoutError:
            found.append(ActorStatus(name, error="does not answer"))
        except ray.exceptions.RayError as error:
            found.append(ActorStatus(name, error=_first_line(error)))
    return sorted(found, key=lambda status: status.name)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
