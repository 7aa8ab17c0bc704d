"""Simulated processes: groups of tasks that are killed, paused and restarted like processes of an operating system.

A process reaches the rest of the world only through ``remote``: the far side of a call runs in the world, not in the
process, so a request that is on its way takes effect although its sender is killed, paused or has given up.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context
from dataclasses import dataclass
from typing import Any, TypeVar

from tests.simulation.loop import CURRENT, SimLoop

T = TypeVar("T")


class SimProcess:
    """One start of a process."""

    def __init__(self, loop: SimLoop, name: str, role: str) -> None:
        self.name = name
        self.role = role
        self.identities: set[str] = set()
        """The incarnations, as the store's map calls them, that this process has lived so far."""
        self.alive = True
        self.paused = False
        self.held: list[asyncio.Handle] = []
        self.on_exit: list[Callable[[], None]] = []
        self._loop = loop
        self.root: asyncio.Task[Any] | None = None

    def __str__(self) -> str:
        return self.name

    def start(self, main: Coroutine[Any, Any, None], ended: Callable[[asyncio.Task[Any]], None]) -> None:
        """Runs ``main``; ``ended`` is called, in the world, if it ends by itself."""
        context = Context()
        context.run(CURRENT.set, self)
        self.root = self._loop.create_task(main, name=self.name, context=context)
        self.root.add_done_callback(ended, context=Context())

    def kill(self) -> None:
        """Nothing of the process runs from now on, not even ``finally`` blocks."""
        if not self.alive:
            return
        self.alive = False
        for hook in self.on_exit:
            hook()
        self.on_exit.clear()

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        """Goes on where it was, with all that was due meanwhile at once."""
        if self.paused:
            self.paused = False
            self._loop.release(self.held)
            self.held = []


@dataclass(frozen=True, slots=True)
class Passage:
    """How one call fares. The work is done after ``request_s``; the answer arrives ``response_s`` later. With
    ``error`` the caller gets that after ``error_s`` (counted from the start) and never the answer; ``drop``: the work
    is not done at all."""

    request_s: float = 0.0
    response_s: float = 0.0
    error: Exception | None = None
    error_s: float = 0.0
    drop: bool = False


def in_world(loop: SimLoop, coro: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
    """Runs ``coro`` as part of the world, whoever asks for it."""
    return loop.create_task(coro, name="world", context=Context())


async def remote(loop: SimLoop, passage: Passage, work: Callable[[], Awaitable[T]]) -> T:
    """Calls ``work`` over there and brings back its answer, as ``passage`` says."""
    answer: asyncio.Future[T] = loop.create_future()

    def settle(result: Any, error: BaseException | None) -> None:
        if answer.done():
            return
        if error is None:
            answer.set_result(result)
        else:
            answer.set_exception(error)
            answer._log_traceback = False  # type: ignore[attr-defined]  # its caller may be dead

    async def over_there() -> None:
        await asyncio.sleep(passage.request_s)
        result, error = None, None
        try:
            result = await work()
        except Exception as problem:
            error = problem
        if passage.error is None:
            loop.call_later(passage.response_s, settle, result, error, context=Context())

    if passage.error is not None:
        loop.call_later(passage.error_s, settle, None, passage.error, context=Context())
    if not passage.drop:
        in_world(loop, over_there())
    return await answer
