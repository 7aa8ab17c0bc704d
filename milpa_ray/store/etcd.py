"""The store on etcd v3, over etcd's generated gRPC stubs.

It speaks the protocol and fails over between endpoints; it parses no values. Reads are repeated on another endpoint
until the deadline; a commit is repeated only when it certainly was not sent, otherwise its effect is unknown and
``StoreUnavailable`` says so.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import grpc
from aetcd.rpc import rpc_pb2, rpc_pb2_grpc

from milpa_ray.errors import Compacted, LeaseGone, StoreUnavailable
from milpa_ray.store import etcd_codec
from milpa_ray.store.connection import METADATA, STREAM_END, EtcdConfig, Picker, Target, cancelling
from milpa_ray.store.etcd_errors import never_sent, translate
from milpa_ray.store.etcd_watch import RangeWatch
from milpa_ray.store.port import Entry, Page, Txn, TxnResult, WatchBatch
from milpa_ray.store.validation import check_txn

TIMEOUT_S = 10.0
MAINTENANCE_TIMEOUT_S = 120.0
"""Compaction and defragmentation of a large database take their time."""
_PAUSE_FIRST_S = 0.1
_PAUSE_MAX_S = 1.0
_EXACT_MARKS = {(3, 4): 25, (3, 5): 8}
"""Per series the first release whose answer to a progress request cannot overtake events; older ones aren't asked."""


@dataclass(slots=True, eq=False)
class _Member:
    """One endpoint with its channel and stubs."""

    target: Target
    channel: grpc.aio.Channel
    kv: Any
    watch: Any
    lease: Any
    maintenance: Any


_Invoke = Callable[[_Member, float], Awaitable[Any]]
"""Makes one try on a member, with its deadline in seconds."""


class EtcdStore:
    """A ``Store`` on etcd. Binds to the event loop of its first call.

    ``timeout_s`` bounds each call, tries on other endpoints included. ``exact_marks`` overrides the judgement by
    version whether the server's answers to progress requests are exact.

    Raises:
        Invalid: malformed endpoints; at the first call, unreadable TLS files.
    """

    def __init__(self, config: EtcdConfig, *, timeout_s: float = TIMEOUT_S, exact_marks: bool | None = None) -> None:
        self._config = config
        self._targets = config.targets()
        self._timeout_s = timeout_s
        self._try_s = timeout_s if len(self._targets) == 1 else timeout_s / 3
        self._exact_marks = exact_marks
        self._picker: Picker[_Member] | None = None
        self._watches: dict[RangeWatch, _Member] = {}
        self._closed = False

    # ------------------------------------------------------------ keys

    async def get(self, key: str) -> Entry | None:
        request = rpc_pb2.RangeRequest(key=key.encode())
        answer = await self._call(lambda member, s: member.kv.Range(request, timeout=s, metadata=METADATA))
        return etcd_codec.entry(answer.kvs[0]) if answer.kvs else None

    async def scan(
        self, start: str, end: str, *, limit: int = 1000, revision: int = 0, keys_only: bool = False
    ) -> Page:
        if limit <= 0:
            raise ValueError("limit must be positive")
        request = rpc_pb2.RangeRequest(
            key=start.encode(), range_end=end.encode(), limit=limit, revision=revision, keys_only=keys_only
        )
        answer = await self._call(
            lambda member, s: member.kv.Range(request, timeout=s, metadata=METADATA), revision=revision
        )
        found = await etcd_codec.entries(answer.kvs)
        next_key = found[-1].key + "\0" if answer.more and found else ""
        return Page(found, revision or answer.header.revision, next_key)

    async def revision(self) -> int:
        """Also asks every open watch for a progress mark, where the server's marks are exact."""
        request = rpc_pb2.RangeRequest(key=b"\0", count_only=True)
        answer = await self._call(lambda member, s: member.kv.Range(request, timeout=s, metadata=METADATA))
        for watch in self._watches:
            watch.want_mark(answer.header.revision)
        return int(answer.header.revision)

    async def commit(self, txn: Txn) -> TxnResult:
        check_txn(txn)
        request = etcd_codec.txn_request(txn)
        answer = await self._call(
            lambda member, s: member.kv.Txn(request, timeout=s, metadata=METADATA),
            repeatable=not txn.ops,  # what writes nothing is a read
        )
        if answer.succeeded:
            return TxnResult(True, answer.header.revision)
        found = (response.response_range.kvs for response in answer.responses)
        current = tuple(etcd_codec.entry(kvs[0]) if kvs else None for kvs in found)
        return TxnResult(False, answer.header.revision, current)

    # ------------------------------------------------------------ watches

    async def watch(self, start: str, end: str, revision: int) -> AsyncIterator[WatchBatch]:
        if revision < 1:
            raise ValueError("a watch starts from a revision of at least 1")
        members = self._members()
        watch = RangeWatch(start, end, revision)
        pause_s = _PAUSE_FIRST_S
        try:
            while not self._closed:
                member = members.current
                self._watches[watch] = member
                try:
                    await self._open(watch, member)
                    while True:
                        batch = await watch.next()
                        pause_s = _PAUSE_FIRST_S
                        yield batch
                except (grpc.RpcError, StoreUnavailable, TimeoutError) as error:
                    _raise_final(error, member)
                    self._failed(member)
                if not self._closed:
                    await asyncio.sleep(pause_s)
                    pause_s = min(2 * pause_s, _PAUSE_MAX_S)
        finally:
            self._watches.pop(watch, None)
            watch.end_stream()

    async def _open(self, watch: RangeWatch, member: _Member) -> None:
        async with asyncio.timeout(self._try_s):
            reached = await watch.open(member.watch, await self._marks_exact(member))
        # A member may lag; but if the whole store is behind us, it was restored from an older state.
        if reached < watch.position - 1 and (now := await self.revision()) < watch.position - 1:
            raise Compacted(now + 1)

    async def _marks_exact(self, member: _Member) -> bool:
        if self._exact_marks is not None:
            return self._exact_marks
        answer = await member.maintenance.Status(rpc_pb2.StatusRequest(), timeout=self._try_s, metadata=METADATA)
        return marks_exact(answer.version)

    # ------------------------------------------------------------ leases

    async def lease_grant(self, ttl_s: int) -> int:
        # Repeated after a lost answer: a lease too many runs out by itself.
        request = rpc_pb2.LeaseGrantRequest(TTL=ttl_s)
        answer = await self._call(lambda member, s: member.lease.LeaseGrant(request, timeout=s, metadata=METADATA))
        return int(answer.ID)

    async def lease_keepalive(self, lease: int) -> int:
        async def renew(member: _Member, timeout_s: float) -> Any:
            requests = iter([rpc_pb2.LeaseKeepAliveRequest(ID=lease)])
            call = member.lease.LeaseKeepAlive(requests, timeout=timeout_s, metadata=METADATA)
            answer = await call.read()
            if answer is STREAM_END:
                raise StoreUnavailable("etcd did not answer the lease's renewal")
            return answer

        answer = await self._call(renew)
        return max(0, int(answer.TTL))

    async def lease_revoke(self, lease: int) -> None:
        request = rpc_pb2.LeaseRevokeRequest(ID=lease)
        try:
            await self._call(lambda member, s: member.lease.LeaseRevoke(request, timeout=s, metadata=METADATA))
        except LeaseGone:
            return

    # ------------------------------------------------------------ maintenance

    async def compact(self, revision: int) -> None:
        request = rpc_pb2.CompactionRequest(revision=revision)
        await self._call(lambda member, s: member.kv.Compact(request, timeout=s, metadata=METADATA), revision=revision)

    async def is_full(self) -> bool:
        """Whether a member has raised the no-space alarm: no key can be put then.

        Raises:
            StoreUnavailable: no endpoint answered.
        """
        return bool(await self._alarms())

    async def relieve(self) -> None:
        """After a compaction: gives the freed space back on every endpoint and ends the no-space alarm. A member that
        defragments answers nothing meanwhile (about a second per 100 MB).

        Raises:
            StoreUnavailable: an endpoint did not answer.
        """
        for member in self._members():
            try:
                await member.maintenance.Defragment(
                    rpc_pb2.DefragmentRequest(), timeout=MAINTENANCE_TIMEOUT_S, metadata=METADATA
                )
            except grpc.RpcError as error:
                raise translate(error, member.target.address) from None
        for alarm in await self._alarms():
            request = rpc_pb2.AlarmRequest(
                action=rpc_pb2.AlarmRequest.DEACTIVATE, memberID=alarm.memberID, alarm=alarm.alarm
            )
            await self._alarm(request)

    async def _alarms(self) -> list[Any]:
        answer = await self._alarm(rpc_pb2.AlarmRequest(action=rpc_pb2.AlarmRequest.GET, alarm=rpc_pb2.NOSPACE))
        return [alarm for alarm in answer.alarms if alarm.alarm == rpc_pb2.NOSPACE]

    async def _alarm(self, request: Any) -> Any:
        return await self._call(lambda member, s: member.maintenance.Alarm(request, timeout=s, metadata=METADATA))

    # ------------------------------------------------------------ calling

    async def close(self) -> None:
        self._closed = True
        for watch in self._watches:
            watch.end_stream()
        if self._picker is not None:
            await asyncio.gather(*(member.channel.close(None) for member in self._picker))

    def _members(self) -> Picker[_Member]:
        if self._closed:
            raise StoreUnavailable("the store is closed")
        if self._picker is None:
            self._picker = Picker([_connect(target, self._config) for target in self._targets])
        return self._picker

    def _failed(self, member: _Member) -> None:
        """Goes to the next endpoint, with the watches: of a member that hangs they would notice later."""
        if self._picker is None:
            return
        self._picker.failed(member)
        if len(self._picker) > 1:
            for watch, at in self._watches.items():
                if at is member:
                    watch.end_stream()

    async def _call(self, invoke: _Invoke, *, repeatable: bool = True, revision: int = 0) -> Any:
        """Tries endpoint after endpoint until one answers or the time is up."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timeout_s
        members = self._members()
        tries = 0
        while True:
            member = members.current
            try:
                return await invoke(member, min(self._try_s, max(0.1, deadline - loop.time())))
            except grpc.RpcError as error:
                failure = translate(error, member.target.address, revision)
                again = repeatable or never_sent(error)
            except StoreUnavailable as error:
                failure, again = error, repeatable
            except asyncio.CancelledError:
                if self._closed and not cancelling():
                    raise StoreUnavailable("the store is closed") from None  # gRPC's way to say so
                raise
            if not isinstance(failure, StoreUnavailable):
                raise failure
            self._failed(member)
            tries += 1
            pause_s = _PAUSE_FIRST_S if tries % len(members) == 0 else 0.0
            if not again or loop.time() + pause_s >= deadline:
                raise failure
            await asyncio.sleep(pause_s)
            members = self._members()


def marks_exact(version: str) -> bool:
    """Whether this etcd release's answer to a progress request never overtakes events."""
    try:
        major, minor, patch = (int(part) for part in version.split("-")[0].split("."))
    except ValueError:
        return False
    return patch >= _EXACT_MARKS[major, minor] if (major, minor) in _EXACT_MARKS else (major, minor) >= (3, 6)


def _raise_final(error: Exception, member: _Member) -> None:
    """Raises what another stream will not mend."""
    if isinstance(error, grpc.RpcError):
        translated = translate(error, member.target.address)
        if not isinstance(translated, StoreUnavailable):
            raise translated from None


def _connect(target: Target, config: EtcdConfig) -> _Member:
    channel = target.aio_channel(config)
    return _Member(
        target,
        channel,
        rpc_pb2_grpc.KVStub(channel),
        rpc_pb2_grpc.WatchStub(channel),
        rpc_pb2_grpc.LeaseStub(channel),
        rpc_pb2_grpc.MaintenanceStub(channel),
    )
