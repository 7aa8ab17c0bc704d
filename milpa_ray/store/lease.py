"""Keeping a lease alive, and telling its holder when it is lost.

A holder whose event loop hangs must lose its lease, or it would lead without acting. ``ThreadLeaseKeeper`` renews from
a thread over connections of its own, so a busy loop loses nothing, but only as long as the loop has turned lately.
``TaskLeaseKeeper`` renews from the loop, over any store; it is for the store in memory and for simulations.

A keeper keeps one lease once; after ``lost`` the holder makes a new keeper. The lease counts as lost when the store
says so, and also when no renewal has succeeded for its time to live, counted from before the renewal was sent.
"""

import asyncio
import threading
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self

import grpc
from aetcd.rpc import rpc_pb2, rpc_pb2_grpc

from milpa_ray.clock import SystemClock
from milpa_ray.errors import Invalid, MilpaError, StoreUnavailable
from milpa_ray.store.connection import METADATA, EtcdConfig, Picker
from milpa_ray.store.etcd_errors import translate
from milpa_ray.store.port import Store

RENEWALS_PER_TTL = 4
_RETRY_S = 0.2
_BEATS_PER_STALL = 10
_JOIN_S = 5.0


class LeaseKeeper(Protocol):
    """Holds one lease. ``lost`` is set, in the event loop, once the lease is gone or may be."""

    lost: asyncio.Event

    async def start(self) -> int:
        """Grants the lease and begins to keep it; its id.

        Raises:
            StoreUnavailable, StoreFull: not granted.
        """

    async def stop(self, *, revoke: bool = True) -> None:
        """Ends keeping. ``revoke`` ends the lease too, if the store can be reached; else it runs out by itself."""


class _Context:
    """``async with``: started inside, stopped and revoked after."""

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> int:
        raise NotImplementedError

    async def stop(self, *, revoke: bool = True) -> None:
        raise NotImplementedError


class TaskLeaseKeeper(_Context):
    """Keeps a lease of ``ttl_s`` seconds from a task of the event loop, by the loop's time."""

    def __init__(self, store: Store, ttl_s: int) -> None:
        self.lost = asyncio.Event()
        self.lease = 0
        self._store = store
        self._ttl_s = ttl_s
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> int:
        sent = asyncio.get_running_loop().time()
        self.lease = await self._store.lease_grant(self._ttl_s)
        self._task = asyncio.create_task(self._keep(sent + self._ttl_s))
        return self.lease

    async def stop(self, *, revoke: bool = True) -> None:
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._task = None
        if revoke and not self.lost.is_set():
            try:
                await self._store.lease_revoke(self.lease)
            except MilpaError:
                return

    async def _keep(self, expiry: float) -> None:
        loop = asyncio.get_running_loop()
        pause_s = self._ttl_s / RENEWALS_PER_TTL
        while True:
            await asyncio.sleep(min(pause_s, max(0.0, expiry - loop.time())))
            sent = loop.time()
            if sent >= expiry:
                break
            try:
                async with asyncio.timeout_at(expiry):
                    left = await self._store.lease_keepalive(self.lease)
            except (StoreUnavailable, TimeoutError):
                pause_s = _RETRY_S
                continue
            if left <= 0:
                break
            expiry, pause_s = sent + left, self._ttl_s / RENEWALS_PER_TTL
        self.lost.set()


class ThreadLeaseKeeper(_Context):
    """Keeps a lease of ``ttl_s`` seconds in etcd from a thread, while the event loop turns at least every
    ``stall_s`` seconds."""

    def __init__(self, config: EtcdConfig, ttl_s: int, *, stall_s: float = 3.0) -> None:
        self.lost = asyncio.Event()
        self.lease = 0
        self._config = config
        self._ttl_s = ttl_s
        self._stall_s = stall_s
        self._clock = SystemClock()
        self._beat_at = 0.0
        self._beat_timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._revoke = False

    async def start(self) -> int:
        self._loop = asyncio.get_running_loop()
        granted: asyncio.Future[int] = self._loop.create_future()
        self._beat()
        # A thread of our own from the start: the loop's executor may be full of other work.
        self._thread = threading.Thread(target=self._run, args=(granted,), name="lease-keeper", daemon=True)
        self._thread.start()
        try:
            self.lease = await granted
        except BaseException:
            await self.stop()
            raise
        return self.lease

    async def stop(self, *, revoke: bool = True) -> None:
        if self._beat_timer is not None:
            self._beat_timer.cancel()
        self._revoke = revoke
        self._stopping.set()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, _JOIN_S)

    def _beat(self) -> None:
        assert self._loop is not None
        self._beat_at = self._clock.monotonic()
        self._beat_timer = self._loop.call_later(self._stall_s / _BEATS_PER_STALL, self._beat)

    # ------------------------------------------------------------ in the thread

    def _run(self, granted: "asyncio.Future[int]") -> None:
        try:
            client = _BlockingLease(self._config, self._ttl_s)
        except MilpaError as error:
            self._tell(_fail, granted, error)
            return
        try:
            sent = self._clock.monotonic()
            lease = client.grant()
        except (MilpaError, ValueError) as error:
            self._tell(_fail, granted, error)
            client.close()
            return
        self._tell(_answer, granted, lease)
        gone = self._keep(client, lease, sent + self._ttl_s)
        if gone:
            self._tell(self.lost.set)
        elif self._revoke:
            client.revoke(lease)
        client.close()

    def _keep(self, client: "_BlockingLease", lease: int, expiry: float) -> bool:
        """Renews until told to stop (False) or the lease is lost (True)."""
        every_s = pause_s = self._ttl_s / RENEWALS_PER_TTL
        while not self._stopping.wait(min(pause_s, max(0.0, expiry - self._clock.monotonic()))):
            sent = self._clock.monotonic()
            if sent >= expiry:
                return True
            if sent - self._beat_at > self._stall_s:
                continue  # the loop hangs: let the lease run out unless it comes back in time
            try:
                left = client.renew(lease, min(every_s, expiry - sent))
            except (MilpaError, ValueError):
                pause_s = _RETRY_S
                continue
            if left <= 0:
                return True
            expiry, pause_s = sent + left, every_s
        return False

    def _tell(self, call: Any, *args: Any) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(call, *args)
        except RuntimeError:
            return  # the loop has ended, and with it everybody who would listen


@dataclass(slots=True, eq=False)
class _Endpoint:
    address: str
    channel: grpc.Channel
    stub: Any


class _BlockingLease:
    """Lease calls over blocking channels of its own; each goes to the next endpoint after a failure."""

    def __init__(self, config: EtcdConfig, ttl_s: int) -> None:
        self._ttl_s = ttl_s
        endpoints = []
        for target in config.targets():
            channel = target.channel(config)
            endpoints.append(_Endpoint(target.address, channel, rpc_pb2_grpc.LeaseStub(channel)))
        self._endpoints = Picker(endpoints)

    def grant(self) -> int:
        """Tries every endpoint once, each for the lease's time to live at most."""
        request = rpc_pb2.LeaseGrantRequest(TTL=self._ttl_s)
        for left in range(len(self._endpoints), 0, -1):
            try:
                answer = self._try(lambda stub: stub.LeaseGrant(request, timeout=self._ttl_s, metadata=METADATA))
                return int(answer.ID)
            except StoreUnavailable:
                if left == 1:
                    raise
        raise Invalid("etcd.client.endpoints: no endpoint given")

    def renew(self, lease: int, timeout_s: float) -> int:
        """Seconds left; 0: gone. One try."""
        requests = [rpc_pb2.LeaseKeepAliveRequest(ID=lease)]

        def first(stub: Any) -> Any:
            call = stub.LeaseKeepAlive(iter(requests), timeout=timeout_s, metadata=METADATA)
            answer = next(call, None)
            call.cancel()
            return answer

        answer = self._try(first)
        if answer is None:
            raise StoreUnavailable("etcd did not answer the lease's renewal")
        return int(answer.TTL)

    def revoke(self, lease: int) -> None:
        """One try; a lease that is not reached runs out by itself."""
        request = rpc_pb2.LeaseRevokeRequest(ID=lease)
        try:
            self._try(lambda stub: stub.LeaseRevoke(request, timeout=1.0, metadata=METADATA))
        except (MilpaError, ValueError):
            return

    def close(self) -> None:
        for endpoint in self._endpoints:
            endpoint.channel.close()

    def _try(self, call: Any) -> Any:
        endpoint = self._endpoints.current
        try:
            return call(endpoint.stub)
        except grpc.RpcError as error:
            failure = translate(error, endpoint.address)
            self._endpoints.failed(endpoint)
            raise failure from None


def _answer(granted: "asyncio.Future[int]", lease: int) -> None:
    if not granted.done():
        granted.set_result(lease)


def _fail(granted: "asyncio.Future[int]", error: Exception) -> None:
    if not granted.done():
        granted.set_exception(error)
