"""Saves the tails of a node's logs before its instance goes, so that users can read why a pod failed.

Tails are LogFile objects under a lease, written in transactions of their own, many nodes' at a time. They hold what the
unit printed last; they are no log archive.
"""

import asyncio
import logging

from milpa_ray.api.meta import ObjectMeta, ObjectReference
from milpa_ray.api.pod import UnitStatus
from milpa_ray.api.records import LogFile
from milpa_ray.clock import Clock
from milpa_ray.controller.links import AgentLink
from milpa_ray.errors import AgentRefused, AgentUnreachable, MilpaError
from milpa_ray.events import SharedLease
from milpa_ray.keys import Keys
from milpa_ray.limits import Limits
from milpa_ray.ports import Agent
from milpa_ray.store.port import Put, Store, Txn

log = logging.getLogger(__name__)

FLUSH_OPS = 64
MAX_WAITING = 10_000


class LogSaver:
    """Fetches and saves tails. ``run`` must be running for ``save`` to end."""

    def __init__(self, store: Store, keys: Keys, clock: Clock, limits: Limits) -> None:
        self._store = store
        self._keys = keys
        self._clock = clock
        self._limits = limits
        self._lease = SharedLease(store, clock, limits.event_ttl_s)
        self._waiting: asyncio.Queue[tuple[LogFile, asyncio.Future[None]]] = asyncio.Queue(MAX_WAITING)

    async def save(self, link: AgentLink, agent: Agent) -> None:
        """Saves the tail of each unit's log and of the agent's own; returns once they are in the store.

        The log of a unit that ran and printed nothing is saved, too, so that it can be told from one that was lost.

        Raises:
            AgentUnreachable, StoreUnavailable, StoreFull
        """
        node = link.node
        facts = link.facts()
        statuses = (*facts.init_units, *(facts.units or ()))
        files = [await self._fetch(agent, "", ObjectReference(kind="Node", name=node.name, uid=node.uid))]
        pod = ObjectReference(kind="Pod", name=node.status.bound_pod_name, uid=node.status.pod_uid)
        files += [await self._fetch(agent, status.name, pod) for status in statuses]
        quiet = {f"{pod.name}.{status.name}" for status in statuses if _has_run(status)}
        loop = asyncio.get_running_loop()
        saved = []
        for file in files:
            if file.content or file.name in quiet:
                done: asyncio.Future[None] = loop.create_future()
                await self._waiting.put((file, done))
                saved.append(done)
        if saved:
            await asyncio.gather(*saved)

    async def _fetch(self, agent: Agent, unit: str, parent: ObjectReference) -> LogFile:
        tail = bytearray()
        try:
            async with asyncio.timeout(self._limits.call_timeout_s):
                async for chunk in agent.logs(unit, limit_bytes=self._limits.log_tail_bytes):
                    tail += chunk
        except TimeoutError as error:
            raise AgentUnreachable(f"the log of {unit or 'the agent'} did not come in time") from error
        except AgentRefused as error:
            log.info("no log of %s on node %s: %s", unit or "the agent", parent.name, error)
        name = f"{parent.name}.{unit}" if unit else parent.name
        return LogFile(
            metadata=ObjectMeta(name=name, creation_timestamp=self._clock.now(), labels={"unit": unit} if unit else {}),
            parent_object=parent,
            content=bytes(tail[-self._limits.log_tail_bytes :]).decode(errors="replace"),
        )

    async def run(self) -> None:
        """Writes what is waiting, together, for ever."""
        while True:
            batch = [await self._waiting.get()]
            while len(batch) < FLUSH_OPS and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            error = await self._write([file for file, _ in batch])
            for _, done in batch:
                if done.done():
                    continue
                if error is None:
                    done.set_result(None)
                else:
                    done.set_exception(error)

    async def _write(self, files: list[LogFile]) -> MilpaError | None:
        latest = {self._keys.other("LogFile", file.name): file for file in files}
        try:
            lease = await self._lease.current()
            await self._store.commit(Txn(ops=tuple(Put(key, f.to_json(), lease) for key, f in latest.items())))
        except MilpaError as error:
            self._lease.forget()
            return error
        return None


def _has_run(unit: UnitStatus) -> bool:
    """Whether the unit was started once. One that was stopped before its start is told as terminated without a code."""
    ended = unit.state.terminated
    return unit.state.running is not None or unit.last_state is not None or bool(ended and ended.exit_code is not None)
