"""Writes Events: what happened to which object, for users to read. Never a source of truth, and never in the way.

``record`` only queues; a task writes batches in transactions of their own. Events are leased by the minute, so that
the store drops them by itself. The queue is bounded: when the store can't keep up, the oldest are lost and counted.
"""

import asyncio
import contextlib
import itertools
import logging
import random
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self

from milpa_ray.api.meta import ObjectMeta, ObjectReference, Resource
from milpa_ray.api.records import Event
from milpa_ray.clock import Clock
from milpa_ray.errors import LeaseGone, MilpaError
from milpa_ray.keys import Keys
from milpa_ray.store.port import Put, Store, Txn

MAX_QUEUED = 20_000
MAX_BATCH = 100
MAX_MESSAGE_CHARS = 1_024
LEASE_SPAN_S = 60
"""What is written within this span shares a lease, so that leases stay few."""
RETRY_FIRST_S = 0.2
RETRY_MAX_S = 10.0
STOP_TIMEOUT_S = 2.0

log = logging.getLogger(__name__)


class SharedLease:
    """One lease for all that is written within a minute. What is put with it lives for at least ``ttl_s`` seconds."""

    def __init__(self, store: Store, clock: Clock, ttl_s: int) -> None:
        self._store = store
        self._clock = clock
        self._ttl_s = ttl_s
        self._lease = 0
        self._granted = 0.0

    async def current(self) -> int:
        """The lease to write with now. Raises ``StoreUnavailable``."""
        now = self._clock.monotonic()
        if not self._lease or now - self._granted >= LEASE_SPAN_S:
            self._lease = await self._store.lease_grant(self._ttl_s + LEASE_SPAN_S)
            self._granted = now
        return self._lease

    def forget(self) -> None:
        """The store does not know the lease any more: the next call grants a new one."""
        self._lease = 0


@dataclass(frozen=True, slots=True)
class _Pending:
    at: datetime
    involved: ObjectReference
    status: str
    message: str


class EventRecorder:
    """Queues and writes events of one component. Use as ``async with``, or call ``start`` and ``stop``."""

    def __init__(self, store: Store, keys: Keys, clock: Clock, source: str, *, ttl_s: int = 3600) -> None:
        self._store = store
        self._keys = keys
        self._clock = clock
        self._source = source
        self._lease = SharedLease(store, clock, ttl_s)
        self._id = random.getrandbits(32)
        self._number = itertools.count(1)
        self._queue: deque[_Pending] = deque(maxlen=MAX_QUEUED)
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._task: asyncio.Task[None] | None = None
        self.lost = 0
        """Events dropped since the start, because the queue was full."""

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    def start(self) -> None:
        """Starts the writing task; needs a running event loop."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=f"events of {self._source}")

    async def stop(self) -> None:
        """Writes what is queued, for at most 2 s, and ends the task."""
        task, self._task = self._task, None
        if task is None:
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), STOP_TIMEOUT_S)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    def record(self, involved: ObjectReference | Resource, status: str, message: str = "") -> None:
        """Queues an event. ``status`` is short and the same for the same thing (``pod-running``)."""
        if isinstance(involved, Resource):
            involved = ObjectReference(kind=involved.KIND, name=involved.name, uid=involved.uid)
        if len(self._queue) == MAX_QUEUED:
            self.lost += 1
        self._queue.append(_Pending(self._clock.now(), involved, status, message[:MAX_MESSAGE_CHARS]))
        self._idle.clear()
        self._wake.set()

    async def _run(self) -> None:
        delay_s = RETRY_FIRST_S
        while True:
            await self._wake.wait()
            batch = [self._queue.popleft() for _ in range(min(MAX_BATCH, len(self._queue)))]
            if not batch:
                self._wake.clear()
                self._idle.set()
                continue
            try:
                await self._write(batch)
                delay_s = RETRY_FIRST_S
            except MilpaError as error:
                self._put_back(batch)
                log.warning("events are not written (%s); %d wait, next try in %.1f s", error, len(batch), delay_s)
                await asyncio.sleep(delay_s)
                delay_s = min(delay_s * 2, RETRY_MAX_S)

    def _put_back(self, batch: list[_Pending]) -> None:
        room = MAX_QUEUED - len(self._queue)
        self.lost += max(len(batch) - room, 0)
        if room:
            self._queue.extendleft(reversed(batch[-room:]))

    async def _write(self, batch: list[_Pending]) -> None:
        # Written without compares: should an answer get lost, other names for the same events do no harm.
        lease = await self._lease.current()
        puts = tuple(self._put(pending, lease) for pending in batch)
        try:
            await self._store.commit(Txn(ops=puts))
        except LeaseGone:
            self._lease.forget()
            raise

    def _put(self, pending: _Pending, lease: int) -> Put:
        name = f"{pending.at.astimezone(UTC):%Y%m%dt%H%M%S.%f}-{self._id:08x}-{next(self._number):x}"
        event = Event(
            metadata=ObjectMeta(name=name, creation_timestamp=pending.at),
            involved_object=pending.involved,
            status=pending.status,
            source=self._source,
            message=pending.message,
        )
        return Put(self._keys.other("Event", name), event.to_json(), lease)
