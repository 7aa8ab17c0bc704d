"""The only module that reads the time.

Everything else takes a ``Clock``, so that a simulation can run hours in milliseconds and replay them from a seed.
Sleeping goes through the event loop (``asyncio.sleep``), which a simulation replaces by one with virtual time.
"""

import asyncio
import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Source of time."""

    def now(self) -> datetime:
        """Wall-clock time, time zone UTC, for what is stored and shown."""

    def monotonic(self) -> float:
        """Seconds that never go back, for time-outs and back-offs. Unrelated to other processes' values."""


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()


class LoopClock:
    """Reads the running event loop's time; wall time is ``epoch`` plus it. For simulations under virtual time."""

    def __init__(self, epoch: datetime) -> None:
        self._epoch = epoch.timestamp()

    def now(self) -> datetime:
        return datetime.fromtimestamp(self._epoch + self.monotonic(), UTC)

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()
