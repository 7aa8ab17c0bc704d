"""The client for asyncio: the same methods as ``Client``, as coroutines and async iterators. One event loop only."""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

from milpa_ray.client import calls, checks
from milpa_ray.client.attempts import FIRST_DELAY_S, Attempts, Deadline, translate
from milpa_ray.client.connection import Connection
from milpa_ray.client.cursor import WatchCursor
from milpa_ray.client.results import (
    ClusterOffers,
    Ref,
    ServerVersion,
    WaitTimeout,
    WatchEvent,
    WriteFailed,
    WriteResult,
)
from milpa_ray.errors import ApiUnavailable

if TYPE_CHECKING:
    from pathlib import Path

    import grpc

    from milpa_ray.api import Pod, Resource

R = TypeVar("R", bound="Resource")
Results = list[WriteResult]


class AsyncClient:
    """A connection to a Milpa cluster. Opens its channels at the first call; ``async with`` or ``close`` ends them.

    Errors of every method: ``ApiUnavailable`` (no server answered for ``retry_s``; says which were tried),
    ``PermissionDenied``, ``Invalid`` (the request, or the certificates).
    """

    def __init__(
        self,
        endpoints: str | Sequence[str] | None = None,
        *,
        cert_dir: Path | str | None = None,
        tls: bool = True,
        timeout_s: float = 30.0,
        retry_s: float = 1.0,
    ) -> None:
        """As ``Client``'s."""
        self._to = Connection(endpoints, cert_dir, tls=tls, timeout_s=timeout_s, retry_s=retry_s)
        self._channels: dict[str, grpc.aio.Channel] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends all connections and the calls on them. The client may be used again; it reconnects then."""
        channels, self._channels = self._channels, {}
        for channel in channels.values():
            await channel.close(None)

    # ------------------------------------------------------------ writes

    async def create(self, objects: Resource | Iterable[Resource], *, dry_run: bool = False) -> Results:
        """Creates one or thousands of objects; one result each, in order. Existing ones are ``ALREADY_EXISTS``."""
        return await self._write("CREATE", objects, dry_run)

    async def update(self, objects: Resource | Iterable[Resource], *, dry_run: bool = False) -> Results:
        """Changes labels, annotations and spec of existing objects."""
        return await self._write("UPDATE", objects, dry_run)

    async def apply(self, objects: Resource | Iterable[Resource], *, dry_run: bool = False) -> Results:
        """Creates the objects that don't exist and updates those that do."""
        return await self._write("APPLY", objects, dry_run)

    async def submit(self, objects: Resource | Iterable[Resource]) -> Results:
        """``create`` that raises ``WriteFailed`` if any object was not created (the others are)."""
        found = await self.create(objects)
        if not all(result.ok for result in found):
            raise WriteFailed(found)
        return found

    async def delete(self, kind: str | type[Resource], names: str | Iterable[str], *, cascade: bool = True) -> Results:
        """Deletes the named objects of a kind. ``DELETED`` means wished: a pod's key goes once its end is proved
        (``wait_deleted``). Without ``cascade`` the children of a ReplicaSet or Deployment are kept."""
        return await self.delete_refs(calls.refs_of(kind, names), cascade=cascade)

    async def delete_refs(self, refs: Sequence[Ref], *, cascade: bool = True) -> Results:
        """Deletes objects of any kinds; a ``Ref`` with a uid only the object that has it."""
        return await self._send("Delete", calls.delete_requests(refs, cascade=cascade))

    # ------------------------------------------------------------ reads

    @overload
    async def get(self, kind: type[R], name: str) -> R: ...
    @overload
    async def get(self, kind: str, name: str) -> Resource: ...
    async def get(self, kind: str | type[Resource], name: str) -> Resource:
        """One object. Raises ``NotFound``."""
        return calls.parse(calls.only([data async for data in self.list_raw(kind, name)], kind, name))

    @overload
    async def list(self, kind: type[R], selector: str = "") -> builtins.list[R]: ...
    @overload
    async def list(self, kind: str, selector: str = "") -> builtins.list[Resource]: ...
    async def list(self, kind: str | type[Resource], selector: str = "") -> Any:
        """All objects of a kind that match a label selector such as ``"env in (dev, qa), app=writer"``, by name."""
        return [calls.parse(data) async for data in self.list_raw(kind, selector=selector)]

    async def list_raw(self, kind: str | type[Resource], name: str = "", selector: str = "") -> AsyncIterator[bytes]:
        """Like ``list`` (like ``get`` with ``name``), but the stored JSON, as it comes in."""
        request = calls.list_request(kind, name, selector)
        async for reply in self._stream("List", request, self._to.timeout_s):
            for item in reply.objects:
                yield item.json

    async def watch(
        self,
        kind: str | type[Resource],
        name: str = "",
        selector: str = "",
        *,
        revision: int = 0,
        timeout_s: float | None = None,
    ) -> AsyncIterator[WatchEvent]:
        """The objects present, then ``SYNCED``, then every change until the caller stops or ``timeout_s`` are over.

        Goes on by itself over broken connections; what changed meanwhile is told then, though steps in between may be
        left out. With ``revision`` only the changes after it are told.
        """
        cursor = WatchCursor(calls.kind_text(kind), name, selector, revision)
        attempts = self._to.attempts(read=True, retry_s=self._to.timeout_s)
        deadline = Deadline(timeout_s)
        while not deadline.passed:
            async for event in self._watch_once(cursor, attempts, deadline.left_s):
                yield event

    async def logs(
        self, name: str, unit: str = "", *, lines: int = 0, limit_bytes: int = 0, follow: bool = False
    ) -> AsyncIterator[bytes]:
        """The log of a pod's unit (``unit`` may be left out when there is but one) or of a node's agent: the last
        ``lines`` lines or ``limit_bytes`` bytes (0: all), then with ``follow`` what comes until the unit ends."""
        request = calls.logs_request(name, unit, lines=lines, limit_bytes=limit_bytes, follow=follow)
        async for chunk in self._stream("Logs", request, None if follow else self._to.timeout_s):
            yield chunk.data

    async def version(self) -> ServerVersion:
        """The server's version and its cluster."""
        from milpa_ray.proto import milpa_pb2 as pb

        return calls.server_version(await self._unary("Version", pb.VersionRequest(), read=True))

    async def offers(self) -> ClusterOffers:
        """What the cluster's instances are chosen from: its region, its defaults, and what is full."""
        from milpa_ray.proto import milpa_pb2 as pb

        return calls.cluster_offers(await self._unary("Offers", pb.OffersRequest(), read=True))

    async def dump(self, what: str = "all") -> dict[str, Any]:
        """Internal state for debugging: of ``all``, a kind, ``server`` or a controller. Secrets' values are left
        out."""
        found: dict[str, Any] = {}
        async for chunk in self._stream("Dump", calls.dump_request(what), self._to.timeout_s):
            calls.add_dump(found, chunk)
        return found

    # ------------------------------------------------------------ waiting

    async def wait(
        self,
        names: str | Iterable[str] = (),
        *,
        selector: str = "",
        phases: str | Iterable[str] = "Running",
        timeout_s: float = 600.0,
    ) -> builtins.list[Pod]:
        """Waits until all named (or selected) pods are in one of ``phases``, and returns them.

        Raises:
            WaitTimeout: they are not after ``timeout_s``.
            WaitFailed: one has ended otherwise or was deleted, so it never will be.
            NotFound: a named pod does not exist, or none is selected.
        """
        from milpa_ray.client.waiting import PodWait

        waiting = PodWait(names, selector, phases)
        async for event in self.watch("Pod", waiting.watched_name, selector, timeout_s=timeout_s):
            pods = waiting.feed(event)
            if pods is not None:
                return pods
        raise WaitTimeout(f"not {waiting.wanted} after {timeout_s:g} s: {waiting.missing()}")

    async def wait_deleted(self, kind: str | type[Resource], name: str, *, timeout_s: float = 600.0) -> None:
        """Waits until the object is gone, its end proved. Raises ``WaitTimeout``."""
        there = False
        async for event in self.watch(kind, name, timeout_s=timeout_s):
            there = calls.still_there(event, there)
            if not there:
                return
        raise WaitTimeout(f"{calls.kind_text(kind)} {name!r} is still there after {timeout_s:g} s")

    pod = staticmethod(calls.make_pod)

    # ------------------------------------------------------------ transport

    def _stub(self, endpoint: str) -> Any:
        from grpc import aio

        from milpa_ray.proto import milpa_pb2_grpc

        channel = self._channels.get(endpoint)
        if channel is None:
            channel = self._channels[endpoint] = self._to.open(endpoint, aio.secure_channel, aio.insecure_channel)
        stub: Any = milpa_pb2_grpc.MilpaStub
        return stub(channel)

    async def _unary(self, method: str, request: Any, *, read: bool) -> Any:
        import grpc

        attempts = self._to.attempts(read=read)
        while True:
            try:
                reply = await getattr(self._stub(attempts.endpoint), method)(request, timeout=self._to.timeout_s)
            except grpc.RpcError as error:
                await asyncio.sleep(attempts.failed(error))
            else:
                self._to.preferred = attempts.endpoint
                return reply

    async def _stream(self, method: str, request: Any, timeout_s: float | None) -> AsyncIterator[Any]:
        import grpc

        attempts = self._to.attempts(read=True)
        started = False
        while True:
            call = getattr(self._stub(attempts.endpoint), method)(request, timeout=timeout_s)
            try:
                async for reply in call:
                    started = True
                    yield reply
                return
            except grpc.RpcError as error:
                if started:
                    raise translate(error) from None
                await asyncio.sleep(attempts.failed(error))
            finally:
                call.cancel()

    async def _watch_once(
        self, cursor: WatchCursor, attempts: Attempts, timeout_s: float | None
    ) -> AsyncIterator[WatchEvent]:
        import grpc

        call = self._stub(attempts.endpoint).Watch(cursor.request(), timeout=timeout_s)
        try:
            async for reply in call:
                attempts.answered()
                for event in cursor.feed(reply):
                    yield event
            await asyncio.sleep(FIRST_DELAY_S)  # the server is stopping
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.OUT_OF_RANGE:
                cursor.expired()
                await asyncio.sleep(FIRST_DELAY_S)
            elif timeout_s is None or error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                await asyncio.sleep(attempts.failed(error))
        finally:
            call.cancel()

    async def _write(self, verb: str, objects: Resource | Iterable[Resource], dry_run: bool) -> Results:
        return await self._send("Write", calls.write_requests(verb, checks.resources(objects), dry_run=dry_run))

    async def _send(self, method: str, requests: Iterator[Any]) -> Results:
        done: Results = []
        for request in requests:
            try:
                done += calls.results(await self._unary(method, request, read=False))
            except ApiUnavailable as error:
                if not done:
                    raise
                done += calls.not_sent(request, str(error))
        return done
