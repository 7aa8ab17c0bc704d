"""Milpa as a foreground process for a service manager, and what runs of it, told in parts."""

import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass

from milpa_ray.errors import MilpaError
from milpa_ray.paths import Home
from shards.doctor import require
from shards.installation import Installation
from shards.launch import statuses
from shards.layout import make_home
from shards.ray_cluster import RayCluster

WORKER_CHECK_S = 2.0

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Part:
    """One process or actor. ``pid`` is 0 where there is none or several."""

    name: str
    ok: bool
    detail: str
    pid: int = 0


def serve(installation: Installation, say: Say) -> None:
    """Brings everything up, keeps it running, and stops it on SIGTERM or SIGINT.

    Raises:
        MilpaError: it could not be brought up.
    """
    ended = _ended_by_signal()
    if make_home(installation.home):
        say(f"wrote {installation.home.server_yml}")
    require(installation)
    say("up already" if not installation.up(say) else "up")
    installation.watch(ended, say)
    installation.stop(say)


def serve_worker(home: Home, address: str, node_ip: str, say: Say) -> None:
    """Joins the Ray cluster at ``address`` and stays until SIGTERM, SIGINT or the end of that cluster.

    Raises:
        MilpaError: it could not join, or the node has ended by itself.
    """
    ended = _ended_by_signal()
    make_home(home)
    ray = RayCluster(home, node_ip)
    if not ray.is_running():
        ray.join(address)
    say(f"joined {address} as {node_ip}")
    while not ended.wait(WORKER_CHECK_S):
        if not ray.is_running():
            ray.stop()
            raise MilpaError(f"the Ray node of this host has ended, or its head at {address} has")
    ray.stop()
    say("left")


def _ended_by_signal() -> threading.Event:
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    return ended


def state_of(installation: Installation) -> list[Part]:
    """The state of all daemons and actors. Raises ``Invalid`` when the settings are wrong."""
    parts = [Part(name, text != "stopped", text) for name, text in installation.daemons().items()]
    ray = next(part for part in parts if part.name == "ray")
    if not ray.ok:
        return parts
    with installation.ray.connected():
        found = statuses()
    parts += [
        Part(s.name, s.ready, s.error or (f"ready, {s.age_s:.0f} s old" if s.ready else "not ready"), s.pid)
        for s in found
    ]
    if not found:
        parts.append(Part("controllers", False, "none"))
    return parts
