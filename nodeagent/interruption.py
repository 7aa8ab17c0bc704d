"""Watches for the notice that the cloud takes this instance back (a spot interruption), and tells it once.

Only asks the instance metadata service; what follows from a notice is the controllers' to decide. An instance that was
not launched as spot is asked about once. Where no metadata service answers it is asked for ever more rarely, since the
machine may be no cloud's at all.
"""

import asyncio
import json
import logging
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Protocol

from milpa_ray.clock import Clock
from nodeagent.imds import MetadataUnavailable

log = logging.getLogger("nodeagent.interruption")

POLL_S = 5.0
"""As AWS advises; the notice comes two minutes before the end."""
ABSENT_MOST_S = 60.0
"""Longest pause while no metadata service answers."""
NOTICE = timedelta(seconds=120)
"""EC2's notice, for an answer that names no time."""
DISABLED_VARIABLE = "AWS_EC2_METADATA_DISABLED"
"""The AWS SDKs' variable: ``true`` says that there is no metadata service to ask."""
SPOT = "spot"
_LIFE_CYCLE = "meta-data/instance-life-cycle"
_ACTION = "meta-data/spot/instance-action"


class Metadata(Protocol):
    """What is asked: ``imds.InstanceMetadata``."""

    def read(self, path: str) -> bytes | None: ...


def metadata_enabled() -> bool:
    """Whether the environment lets the metadata service be asked."""
    return os.environ.get(DISABLED_VARIABLE, "").lower() != "true"


async def watch_interruption(
    metadata: Metadata, tell: Callable[[datetime], None], clock: Clock, poll_s: float = POLL_S
) -> None:
    """Asks every ``poll_s`` seconds; returns after ``tell`` was called with the time of the interruption, and for an
    instance that is not spot."""
    pause_s = poll_s
    spot = False
    while True:
        try:
            spot = spot or await _is_spot(metadata)
            if not spot:
                log.info("not a spot instance: nothing to watch for")
                return
            answer = await asyncio.to_thread(metadata.read, _ACTION)
            pause_s = poll_s
        except MetadataUnavailable as error:
            if pause_s == poll_s:
                log.info("spot interruptions cannot be watched for now: %s", error)
            answer, pause_s = None, min(pause_s * 2, max(ABSENT_MOST_S, poll_s))
        if answer is not None:
            at = _interruption_time(answer, clock.now())
            log.warning("the cloud takes this instance back at %s: %s", at.isoformat(), answer.decode(errors="replace"))
            tell(at)
            return
        await asyncio.sleep(pause_s)


async def _is_spot(metadata: Metadata) -> bool:
    """Also where the service does not say: asking on does no harm."""
    answer = await asyncio.to_thread(metadata.read, _LIFE_CYCLE)
    return answer is None or answer.decode(errors="replace").strip() == SPOT


def _interruption_time(answer: bytes, now: datetime) -> datetime:
    """The time in an answer such as ``{"action": "terminate", "time": "2024-05-01T12:02:00Z"}``. A notice that cannot
    be read is a notice all the same."""
    try:
        at = datetime.fromisoformat(json.loads(answer)["time"])
    except (ValueError, TypeError, KeyError):
        return now + NOTICE
    return at.astimezone(UTC) if at.tzinfo is not None else at.replace(tzinfo=UTC)
