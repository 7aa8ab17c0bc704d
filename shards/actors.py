"""The Ray actors: thin shells that build a controller, run its loop, and answer how it does.

They hold no logic of controllers and no state worth keeping. A loop that ends takes its process along, so that Ray
starts the actor anew, as a fresh incarnation with nothing inherited. The module does not import Ray.
"""

import asyncio
import contextlib
import gc
import logging
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any, Protocol

MIN_LIFE_S = 5.0
"""A loop that failed earlier than this waits for the rest before its process ends, so that restarts stay rare and its
error can be asked for."""
GC_YOUNG, GC_MIDDLE, GC_OLD = 20_000, 20, 50
"""Thresholds of the garbage collector's generations; Python's own are 700, 10, 10."""
BULK_NICE = 5
"""Niceness of shards and coordinator: users wait for the API server and for etcd, which need little and go first. Not
more than that: beside other load at niceness 15 they lost their leases."""
LOG_BYTES = 16 << 20
LOG_FILES = 3

log = logging.getLogger("milpa.actors")


@dataclass(frozen=True, slots=True)
class ActorConfig:
    """What an actor is told: plain data. ``name`` is unique in the cluster and lasting; ``home`` and ``config_file``
    are paths on the actor's host. ``endpoints`` are etcd's. ``tls``: clients need certificates. ``host`` is the Ray
    address of the host that an API server is pinned to."""

    name: str
    home: str
    config_file: str
    endpoints: tuple[str, ...] = ()
    tls: bool = True
    host: str = ""

    @property
    def log_file(self) -> Path:
        return Path(self.home) / "log" / f"{self.name}.log"


class Controller(Protocol):
    """What a shell runs. ``run`` never returns by itself; ``ready`` says whether it does its work at the moment."""

    async def run(self) -> None: ...

    def ready(self) -> bool: ...

    def dump(self) -> Mapping[str, Any]: ...

    async def close(self) -> None: ...


Build = Callable[[ActorConfig], Awaitable[Controller]]


class ControllerActor:
    """A shell around one controller."""

    nice = 0
    """What the niceness of the controller's threads is raised by."""
    own_session = False
    """Whether the process leaves Ray's session. Linux shares the CPU out among sessions first (autogroup), so in Ray's
    it waits whenever the shards have had that session's share, however little it needs itself."""

    def __init__(self, build: Build, config: ActorConfig) -> None:
        # No I/O here: an exception in a restarted actor's constructor is its final death.
        self._build = build
        self._config = config
        self._born = time.monotonic()
        self._controller: Controller | None = None
        self._error = ""
        self._task = asyncio.get_running_loop().create_task(self._live())

    async def ping(self) -> int:
        """The process's pid."""
        return os.getpid()

    async def status(self) -> dict[str, Any]:
        """How it does: ``ready``, ``error`` (empty if none), ``pid`` and ``age_s``."""
        controller = self._controller
        return {
            "name": self._config.name,
            "pid": os.getpid(),
            "age_s": time.monotonic() - self._born,
            "ready": controller is not None and not self._error and controller.ready(),
            "error": self._error,
        }

    async def dump(self) -> dict[str, Any]:
        """The controller's state, for people who debug; no secrets."""
        state = dict(self._controller.dump()) if self._controller is not None else {}
        return {**await self.status(), "state": state}

    async def stop(self) -> None:
        """Ends the loop in good order (leases are given back); the process stays, with nothing to do."""
        self._error = "stopped"
        self._task.cancel()
        await asyncio.wait([self._task], timeout=MIN_LIFE_S)

    async def _live(self) -> None:
        try:
            _log_to(self._config.log_file)
            log.info("%s starts as process %d", self._config.name, os.getpid())
            if self.own_session:
                _leave_session()
            os.nice(self.nice)  # of this thread, and of those that it starts from now on
            self._controller = await self._build(self._config)
            _calm_collector()
            try:
                await self._controller.run()
            finally:
                await self._controller.close()
            raise RuntimeError("the loop has ended by itself")
        except asyncio.CancelledError:
            log.info("%s stops", self._config.name)
            raise
        except BaseException as error:
            self._error = f"{type(error).__name__}: {error}"
            log.exception("%s failed; its process ends and Ray starts it anew", self._config.name)
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(MIN_LIFE_S - (time.monotonic() - self._born))
            logging.shutdown()
            os._exit(1)


def _leave_session() -> None:
    """Makes this process the leader of a session of its own, which the leader of a process group may not."""
    try:
        if os.getpgrp() == os.getpid() != os.getsid(0):
            os.setpgid(0, os.getpgid(os.getppid()))
        os.setsid()
    except OSError as error:
        log.debug("it stays in its session: %s", error)


def _calm_collector() -> None:
    """Keeps the garbage collector from walking again and again over what lives as long as the process.

    What is imported and built is frozen, and the young generation may grow before it is looked at: controllers hold
    many objects for long and make few cycles. In one noisy pair of runs it saved about a fifth of the CPU per pod.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_YOUNG, GC_MIDDLE, GC_OLD)


class ShardActor(ControllerActor):
    """Hosts one shard. The class name is the process's title."""

    nice = BULK_NICE


class CoordinatorActor(ControllerActor):
    """Hosts one candidate for coordinator."""

    nice = BULK_NICE


class ApiActor(ControllerActor):
    """Hosts the API server of one controller host."""

    own_session = True


def _log_to(path: Path) -> None:
    """Sends this process's log to ``path``, besides Ray's own files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = RotatingFileHandler(path, maxBytes=LOG_BYTES, backupCount=LOG_FILES - 1)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    root.addHandler(handler)
