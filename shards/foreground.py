"""Milpa as a foreground process for a service manager, and what runs of it, told in parts."""

import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass

from milpa_ray.errors import MilpaError
from shards.doctor import require
from shards.installation import READY_TIMEOUT_S, Installation
from shards.launch import dumps, start_actors, statuses
from shards.layout import make_home, save_options

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
    for check in require(installation):
        say(f"{check.name}: {check.detail} (what helps: {check.remedy})")
    say("up already" if not installation.up(say) else "up")
    installation.watch(ended, say)
    installation.stop(say)


def serve_worker(installation: Installation, head: str, say: Say) -> None:
    """Joins the Ray cluster at ``head``, brings up this host's API server, and stays until SIGTERM, SIGINT or the end
    of that cluster.

    Raises:
        MilpaError: it could not join, or the node has ended by itself.
    """
    ended = _ended_by_signal()
    make_home(installation.home)
    settings, ray = installation.settings, installation.ray
    if not settings.etcd.client.endpoints:
        raise MilpaError(
            f"{installation.config_file}: etcd.client.endpoints is empty; several hosts need an etcd that all reach"
        )
    if not ray.is_running():
        ray.join(head)
    try:
        save_options(installation.home, installation.options)
        with ray.connected():
            start_actors([installation.api_spec(settings, installation.options.node_ip)], READY_TIMEOUT_S, say)
        say(f"joined {head} as {installation.options.node_ip}")
        while not ended.wait(WORKER_CHECK_S):
            if not ray.is_running():
                raise MilpaError(f"the Ray node of this host has ended, or its head at {head} has")
    finally:
        ray.stop()
    say("left")


def _ended_by_signal() -> threading.Event:
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    return ended


def state_of(installation: Installation) -> tuple[list[Part], list[str]]:
    """The state of all daemons and actors, and what the coordinator cannot do in the cloud at the moment, a line each:
    the controllers run all the same. Raises ``Invalid`` when the settings are wrong."""
    parts = [Part(name, text != "stopped", text) for name, text in installation.daemons().items()]
    ray = next(part for part in parts if part.name == "ray")
    if not ray.ok:
        return parts, []
    with installation.ray.connected():
        found = statuses()
        leaders = dumps("coordinator")
    parts += [
        Part(s.name, s.ready, s.error or (f"ready, {s.age_s:.0f} s old" if s.ready else "not ready"), s.pid)
        for s in found
    ]
    if not found:
        parts.append(Part("controllers", False, "none"))
    troubles = [each for leader in leaders.values() for each in leader.get("state", {}).get("trouble", ())]
    return parts, [f"the cloud: {t['what']} has failed since {t['since']}: {t['error']}" for t in troubles]
