"""Commits under the fence: what controllers share of turning planned writes into transactions."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Protocol

from milpa_ray.errors import Retryable
from milpa_ray.ports import Token
from milpa_ray.store.group import GroupOutcome, Verdict, WriteGroup, group_commit
from milpa_ray.store.port import Compare, Store

log = logging.getLogger(__name__)


class Deposed(Exception):
    """This incarnation no longer owns what it served; it must stop and may start anew as another."""


class Lease(Protocol):
    """Keeps one store lease alive. ``lost`` is set once the lease can no longer be relied on."""

    lost: asyncio.Event

    async def start(self) -> int: ...

    async def stop(self) -> None: ...


async def commit_fenced(store: Store, map_key: str, token: Token, groups: Sequence[WriteGroup]) -> list[GroupOutcome]:
    """Commits groups, each transaction comparing the map's revision. Never raises ``Retryable``: what could not be sent
    has the verdict NOT_DONE or UNKNOWN."""
    if not groups:
        return []
    try:
        return await group_commit(store, groups, Compare(map_key, token.revision))
    except Retryable as error:
        log.warning("commit of %d groups: %s", len(groups), error)
        return [GroupOutcome(Verdict.UNKNOWN, error=error) for _ in groups]
