"""An event loop with virtual time: nothing is waited for, the time jumps to the next timer.

It does no I/O and knows no threads. Every callback belongs to the simulated process whose context scheduled it; the
callbacks of a dead or paused process are held back, so that a kill is a SIGKILL (no ``finally`` runs) and a pause is a
SIGSTOP. Callbacks of one process keep asyncio's order; which process goes first is drawn from the seed. Tasks and
futures hash by a counter, so that sets of them iterate the same in every run.
"""

import asyncio
import heapq
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar
from itertools import count
from random import Random
from typing import Any, Protocol

MAX_STEPS_AT_ONE_TIME = 200_000


class Deadlock(Exception):
    """Nothing is ready and no timer is set: the run can never go on."""


class OutOfSteps(Exception):
    """The run has taken more steps than it may, or spins without time passing."""


class Runnable(Protocol):
    """What the loop needs to know of a simulated process."""

    alive: bool
    paused: bool
    held: list[asyncio.Handle]


CURRENT: ContextVar[Any] = ContextVar("simulated_process", default=None)
"""The ``Runnable`` that the running code belongs to; None for the world itself (cloud, network, instances)."""


class SimTask(asyncio.Task[Any]):
    """A task with a stable hash."""

    def __init__(self, serial: int, coro: Coroutine[Any, Any, Any], **options: Any) -> None:
        self._serial = serial
        super().__init__(coro, **options)

    def __hash__(self) -> int:
        return self._serial

    def __eq__(self, other: object) -> bool:
        return self is other


class SimFuture(asyncio.Future[Any]):
    """A future with a stable hash."""

    def __init__(self, serial: int, *, loop: asyncio.AbstractEventLoop) -> None:
        self._serial = serial
        super().__init__(loop=loop)

    def __hash__(self) -> int:
        return self._serial

    def __eq__(self, other: object) -> bool:
        return self is other


class SimLoop(asyncio.BaseEventLoop):
    """``order`` shuffles the processes' turns (None: first come, first served). ``after_step`` is called after every
    callback; what it raises ends the run."""

    def __init__(self, order: Random | None = None, max_steps: int = 20_000_000) -> None:
        super().__init__()
        self._order = order
        self._now = 0.0
        self._serial = count(1)
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._max_steps = max_steps
        self._steps_now = 0
        self.steps = 0
        self.after_step: Callable[[], None] | None = None
        self.tearing_down = False
        self.tasks: set[SimTask] = set()
        self._withheld: set[Runnable] = set()

    def time(self) -> float:
        """Virtual seconds since the start."""
        return self._now

    def create_future(self) -> SimFuture:
        return SimFuture(next(self._serial), loop=self)

    def create_task(self, coro: Any, *, name: str | None = None, context: Context | None = None) -> SimTask:
        # Strong references: a task of a killed process must not be collected, or its ``finally`` blocks would run.
        task = SimTask(next(self._serial), coro, loop=self, name=name or "task", context=context)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard, context=Context())
        return task

    def call_at(
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._timers, (when, next(self._serial), timer))
        return timer

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:
        raise RuntimeError("a simulation has no threads: take the blocking work out of the controllers' path")

    def _write_to_self(self) -> None:
        """Nothing sleeps in here, so nobody needs to be woken."""

    def _run_once(self) -> None:
        self._collect_due()
        batch = list(self._ready)
        self._ready.clear()
        if len(batch) > 1 and self._order is not None:
            batch = self._turns(batch)
        done = 0
        try:
            for handle in batch:
                done += 1
                self._run_handle(handle)
        finally:
            self._ready.extendleft(reversed(batch[done:]))

    def _collect_due(self) -> None:
        timers = self._timers
        while timers and timers[0][2].cancelled():
            heapq.heappop(timers)
        if not self._ready and not self._stopping:
            if not timers:
                raise Deadlock(f"nothing is ready and no timer is set at {self._now:.3f} s")
            if timers[0][0] > self._now:
                self._now, self._steps_now = timers[0][0], 0
        while timers and timers[0][0] <= self._now:
            timer = heapq.heappop(timers)[2]
            if not timer.cancelled():
                self._ready.append(timer)

    def _turns(self, batch: list[asyncio.Handle]) -> list[asyncio.Handle]:
        """The same callbacks with the processes in a drawn order, each process's own order kept."""
        turns: dict[int, float] = {}
        keyed = []
        for handle in batch:
            owner = id(handle._context.get(CURRENT))
            if owner not in turns:
                turns[owner] = self._order.random()
            keyed.append((turns[owner], handle))
        if len(turns) == 1:
            return batch
        keyed.sort(key=lambda pair: pair[0])
        return [handle for _, handle in keyed]

    def _run_handle(self, handle: asyncio.Handle) -> None:
        if handle.cancelled():
            return
        owner = handle._context.get(CURRENT)
        if owner is not None and not self.tearing_down and (owner.paused or not owner.alive):
            self._withheld.add(owner)
            owner.held.append(handle)
            return
        handle._run()
        if self.tearing_down:
            return
        self.steps += 1
        self._steps_now += 1
        if self.steps > self._max_steps:
            raise OutOfSteps(f"more than {self._max_steps} steps; {self._now:.3f} s of virtual time passed")
        if self._steps_now > MAX_STEPS_AT_ONE_TIME:
            raise OutOfSteps(f"something spins: no time passes at {self._now:.3f} s; last ran {handle!r}")
        if self.after_step is not None:
            self.after_step()

    def release(self, held: list[asyncio.Handle]) -> None:
        """Lets held-back callbacks run, in their order."""
        self._ready.extend(held)

    def tear_down(self) -> None:
        """Cancels what is left, also of dead processes, and lets it end, so that nothing is reported at exit."""
        self.tearing_down, self.after_step = True, None
        self.set_exception_handler(lambda loop, context: None)
        # Cancelled first, released then: nothing goes on as if it were alive.
        for task in sorted(self.tasks, key=hash):
            task.cancel()
        for owner in self._withheld:
            self.release(owner.held)
        self.call_soon(self.stop)  # with a stop that may be left over from the run
        self.run_forever()
        for _ in range(5):
            left = sorted(self.tasks, key=hash)
            if not left:
                break
            for task in left:
                task.cancel()
            self.run_until_complete(_turns_of_loop(50))
        for task in self.tasks:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        self.run_until_complete(self.shutdown_asyncgens())
        self.close()


async def _turns_of_loop(turns: int) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)
