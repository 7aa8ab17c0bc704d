"""Back-offs between tries, and a set that remembers what to look at again and when."""

import asyncio
import heapq
import logging
import random
from collections.abc import Awaitable, Callable
from itertools import islice

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


OTHERS_SHARE = 4
"""One place of so many is kept for names that are not ahead."""


def _pop(names: dict[str, None], most: int) -> list[str]:
    """Takes out the oldest."""
    found = list(islice(names, most))
    for name in found:
        del names[name]
    return found


class Agenda:
    """Names to look at: at once, or from a time on. Each name is in it at most once for now and once for later.

    Times are the running loop's. Order is that of arrival, but names added ``ahead`` go before the others, so that what
    is nearly done gets done before more is begun. They never take all places, so that the others have their turn, too.
    """

    def __init__(self) -> None:
        self._ahead: dict[str, None] = {}
        self._now: dict[str, None] = {}
        self._later: dict[str, float] = {}
        self._heap: list[tuple[float, str]] = []
        self._event = asyncio.Event()

    def __len__(self) -> int:
        return len(self._ahead) + len(self._now)

    def add(self, name: str, *, ahead: bool = False) -> None:
        """Looks at ``name`` as soon as its turn comes. ``ahead`` also moves a name that waits among the others."""
        if ahead:
            self._now.pop(name, None)
            self._ahead[name] = None
        elif name not in self._ahead:
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
                self.add(name)
            else:
                return due - now
        return None

    async def take(self, limit: int) -> list[str]:
        """Waits until something is due; at most ``limit`` names (at least ``OTHERS_SHARE``), those ahead first, and the
        oldest first of each kind."""
        while True:
            wait = self._ripen()
            if self._now or self._ahead:
                kept = min(len(self._now), limit // OTHERS_SHARE)
                names = _pop(self._ahead, limit - kept)
                return names + _pop(self._now, limit - len(names))
            self._event.clear()
            try:
                async with asyncio.timeout(wait):
                    await self._event.wait()
            except TimeoutError:
                continue
