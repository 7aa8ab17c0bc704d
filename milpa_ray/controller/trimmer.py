"""Keeps events and saved logs bounded: about 64 MiB each, the oldest go first.

They expire by themselves (``limits.event_ttl_s``); this is for the hour in which far more happens than usual. Sizes are
bounded by the largest a record can be, so that keys need no values to be read.
"""

import asyncio
import logging

from milpa_ray.controller.committing import commit_fenced
from milpa_ray.controller.deps import CoordinatorDeps
from milpa_ray.controller.leadership import Leadership
from milpa_ray.errors import MilpaError
from milpa_ray.keys import prefix_end
from milpa_ray.store.group import WriteGroup
from milpa_ray.store.port import Compare, Delete, Entry

log = logging.getLogger(__name__)

INTERVAL_S = 60.0
KEPT_BYTES = 64 * 1024 * 1024
EVENT_BYTES = 2048
"""Largest event: 1,024 characters of message and its names."""
LOG_OVERHEAD_BYTES = 512
PAGE = 5000


class Trimmer:
    """Runs while its leadership lasts."""

    def __init__(self, deps: CoordinatorDeps, leadership: Leadership) -> None:
        self._deps = deps
        self._leadership = leadership

    async def run(self) -> None:
        """Trims now and then until cancelled."""
        kinds = {"event": EVENT_BYTES, "logfile": self._deps.limits.log_tail_bytes + LOG_OVERHEAD_BYTES}
        while True:
            await asyncio.sleep(INTERVAL_S)
            for kind, most_bytes in kinds.items():
                try:
                    await self.trim(kind, KEPT_BYTES // most_bytes)
                except MilpaError as error:
                    log.warning("trimming %ss: %s; trying again later", kind, error)

    async def trim(self, kind: str, kept: int) -> int:
        """Deletes the oldest records of a kind beyond ``kept``; how many.

        Raises:
            StoreUnavailable, Compacted
        """
        prefix = self._deps.keys.prefix(kind)
        found: list[Entry] = []
        start, revision = prefix, 0
        while start:
            page = await self._deps.store.scan(start, prefix_end(prefix), limit=PAGE, revision=revision, keys_only=True)
            found += page.entries
            start, revision = page.next_key, page.revision
        surplus = sorted(found, key=lambda entry: entry.mod_revision)[: max(0, len(found) - kept)]
        groups = [WriteGroup((Compare(e.key, e.mod_revision),), (Delete(e.key),)) for e in surplus]
        async with self._leadership.writing:
            await commit_fenced(self._deps.store, self._deps.keys.map, self._leadership.token, groups)
        return len(surplus)
