"""Long computations in short turns: whatever a call with thousands of objects computes, others get in between.

All calls of a server share one ``Turns``, so that at most one turn runs in each round of the event loop, however many
big calls there are.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import TypeVar

from milpa_ray.clock import Clock

T = TypeVar("T")
U = TypeVar("U")

TURN_S = 0.002


class Turns:
    """``turn_s`` is the length of a turn in seconds; a single item may take longer."""

    def __init__(self, clock: Clock, turn_s: float = TURN_S) -> None:
        self._clock = clock
        self._turn_s = turn_s
        self._lock = asyncio.Lock()

    async def map(self, function: Callable[[T], U], items: Sequence[T]) -> list[U]:
        """``function`` of every item, in order. It must not block."""
        done: list[U] = []
        while len(done) < len(items):
            async with self._lock:
                ends = self._clock.monotonic() + self._turn_s
                while len(done) < len(items):
                    done.append(function(items[len(done)]))
                    if self._clock.monotonic() >= ends:
                        break
                await asyncio.sleep(0)  # within the lock: the next turn is in the next round
        return done
