"""Waiting for a condition instead of sleeping for a guessed time."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from inspect import isawaitable
from typing import Any

PAUSE_S = 0.02


def wait_until(predicate: Callable[[], Any], timeout_s: float = 10.0, what: str = "") -> Any:
    """The first true value of ``predicate``.

    Raises:
        TimeoutError: it stayed false for ``timeout_s`` seconds.
    """
    deadline = time.monotonic() + timeout_s
    while not (value := predicate()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout_s} s: {what or predicate}")
        time.sleep(PAUSE_S)
    return value


async def eventually(predicate: Callable[[], Any | Awaitable[Any]], timeout_s: float = 10.0, what: str = "") -> Any:
    """Like ``wait_until`` in an event loop; the predicate may be a coroutine function."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = predicate()
        if isawaitable(value):
            value = await value
        if value:
            return value
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout_s} s: {what or predicate}")
        await asyncio.sleep(PAUSE_S)
