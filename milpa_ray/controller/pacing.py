"""Back-offs between tries, and a set that remembers what to look at again and when."""

import asyncio
import heapq
import logging
import random
from collections.abc import Awaitable, Callable

from milpa_ray.errors import MilpaError

log = logging.getLogger(__name__)


class Backoff:
    """Exponential delays with full jitter: the n-th lies between half of and all of ``first`` * 2^n, at most ``most``
    (seconds)."""

    def __init__(self, rng: random.Random, first_s: float, most_s: float) -> None:
        self._rng = rng
        self._first = first_s
        self._most = most_s
        self._tries = 0

    def reset(self) -> None:
        self._tries = 0

    def next_s(self) -> float:
        """The next delay in seconds; each call lengthens the one after."""
        delay = min(self._most, self._first * 2.0 ** min(self._tries, 30))
        self._tries += 1
        return delay * (0.5 + self._rng.random() / 2)

    async def sleep(self) -> None:
        await asyncio.sleep(self.next_s())


async def persist(call: Callable[[], Awaitable[None]], backoff: Backoff, what: str) -> None:
    """Calls until it does not fail with a ``MilpaError``, backing off in between."""
    while True:
        try:
            return await call()
        except MilpaError as error:
            log.warning("%s: %s; trying again", what, error)
            await backoff.sleep()


class Agenda:
    """Names to look at: at once, or from a time on. Each name is in it at most once for now and once for later.

    Times are the running loop's. Order is that of arrival.
    """

    def __init__(self) -> None:
        self._now: dict[str, None] = {}
        self._later: dict[str, float] = {}
        self._heap: list[tuple[float, str]] = []
        self._event = asyncio.Event()

    def __len__(self) -> int:
        return len(self._now)

    def add(self, name: str) -> None:
        self._now[name] = None
        self._event.set()

    def add_later(self, name: str, seconds: float) -> None:
        """Looks at ``name`` after ``seconds``, unless it is already due sooner."""
        due = asyncio.get_running_loop().time() + seconds
        if due < self._later.get(name, float("inf")):
            self._later[name] = due
            heapq.heappush(self._heap, (due, name))
            self._event.set()

    def _ripen(self) -> float | None:
        """Moves what is due; seconds until the next is, or None."""
        now = asyncio.get_running_loop().time()
        while self._heap:
            due, name = self._heap[0]
            if self._later.get(name) != due:
                heapq.heappop(self._heap)
            elif due <= now:
                heapq.heappop(self._heap)
                del self._later[name]
                self._now[name] = None
            else:
                return due - now
        return None

    async def take(self, limit: int) -> list[str]:
        """Waits until something is due; at most ``limit`` names, the oldest first."""
        while True:
            wait = self._ripen()
            if self._now:
                names = [name for name, _ in zip(self._now, range(limit), strict=False)]
                for name in names:
                    del self._now[name]
                return names
            self._event.clear()
            try:
                async with asyncio.timeout(wait):
                    await self._event.wait()
            except TimeoutError:
                continue
