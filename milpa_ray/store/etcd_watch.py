"""One watch of a key range on one stream of etcd, and its position between streams.

``RangeWatch`` outlives its streams: after a reconnect ``open`` goes on from the position. It does not choose endpoints
and does not reconnect by itself.

Every stream asks for one revision more than it needs and drops it: etcd before 3.4.34 and 3.5.16 may lose a deletion
made exactly at the compacted revision, and asked this way it refuses instead.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

from aetcd.rpc import rpc_pb2

from milpa_ray.errors import Compacted, StoreUnavailable
from milpa_ray.store.connection import METADATA, STREAM_END, cancelling
from milpa_ray.store.etcd_codec import CHUNK, changes
from milpa_ray.store.port import Change, WatchBatch


class RangeWatch:
    """Invariant: every change below ``position`` has been handed out by ``next`` or waits in ``_ready``; ``_held`` are
    changes of one revision that may not be complete yet."""

    def __init__(self, start: str, end: str, revision: int) -> None:
        self.position = revision
        self._start = start
        self._end = end
        self._call: Any = None
        self._wants_mark = asyncio.Event()
        self._marks_trusted = False
        self._ready: deque[WatchBatch] = deque()
        self._held: list[Change] = []

    async def open(self, stub: Any, marks_trusted: bool) -> int:
        """Starts a stream at the position; the server's revision.

        Raises:
            Compacted: the position is gone. StoreUnavailable, grpc.RpcError: no stream.
        """
        self.end_stream()
        self._marks_trusted = marks_trusted
        self._call = stub.Watch(self._requests(self._wants_mark), metadata=METADATA)
        answer = await self._read()
        if not answer.created:
            raise StoreUnavailable("etcd began a watch with something else than its creation")
        return int(answer.header.revision)

    async def next(self) -> WatchBatch:
        """The next batch, waiting for it.

        Raises:
            Compacted: the position is gone. StoreUnavailable, grpc.RpcError: the stream has ended; open another.
        """
        while not self._ready:
            await self._take(await self._read())
        return self._ready.popleft()

    def want_mark(self, revision: int) -> None:
        """Asks for a progress mark if the watch is not known to have seen ``revision``."""
        if self._marks_trusted and self.position <= revision:
            self._wants_mark.set()

    def end_stream(self) -> None:
        """Ends the stream; the position stays. A waiting ``next`` raises StoreUnavailable."""
        if self._call is not None:
            self._call.cancel()
            self._call = None
        self._held = []
        # gRPC's task that sends our requests outlives a stream that broke: it ends with them.
        before, self._wants_mark = self._wants_mark, asyncio.Event()
        before.set()

    async def _requests(self, wants_mark: asyncio.Event) -> AsyncIterator[Any]:
        yield rpc_pb2.WatchRequest(
            create_request=rpc_pb2.WatchCreateRequest(
                key=self._start.encode(),
                range_end=self._end.encode(),
                start_revision=max(1, self.position - 1),
                progress_notify=True,
                fragment=True,
            )
        )
        while True:
            await wants_mark.wait()
            if wants_mark is not self._wants_mark:
                return
            wants_mark.clear()
            yield rpc_pb2.WatchRequest(progress_request=rpc_pb2.WatchProgressRequest())

    async def _read(self) -> Any:
        call = self._call
        if call is None:
            raise StoreUnavailable("the watch has no stream")
        try:
            answer = await call.read()
        except asyncio.CancelledError:
            if self._call is not call and not cancelling():
                raise StoreUnavailable("the watch's stream was ended") from None  # gRPC's way to say so
            raise
        if answer is STREAM_END:
            raise StoreUnavailable("etcd ended the watch")
        if answer.canceled:
            if answer.compact_revision:
                raise Compacted(answer.compact_revision)
            raise StoreUnavailable(f"etcd cancelled the watch: {answer.cancel_reason}")
        return answer

    async def _take(self, answer: Any) -> None:
        if not answer.events:
            if not (answer.created or self._held):
                self._hand_out(answer.header.revision, [])
            return
        for first in range(0, len(answer.events), CHUNK):
            if first:
                await asyncio.sleep(0)
            self._held.extend(changes(answer.events[first : first + CHUNK]))
        # A fragment may end in the middle of a revision: that revision waits for the rest.
        last = self._held[-1].entry.mod_revision
        whole = self._held
        self._held = []
        if answer.fragment:
            cut = next(i for i, change in enumerate(whole) if change.entry.mod_revision == last)
            whole, self._held = whole[:cut], whole[cut:]
        if whole:
            self._hand_out(whole[-1].entry.mod_revision, whole)

    def _hand_out(self, revision: int, found: list[Change]) -> None:
        if revision < self.position:
            return
        if found and found[0].entry.mod_revision < self.position:
            found = [change for change in found if change.entry.mod_revision >= self.position]
        self._ready.append(WatchBatch(revision, tuple(found)))
        self.position = revision + 1
