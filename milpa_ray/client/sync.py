"""The blocking client. Safe to use from several threads; not across a fork."""

from __future__ import annotations

import builtins
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
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


class Client:
    """A connection to a Milpa cluster. Opens its channels at the first call; ``with`` or ``close`` ends them.

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
        """``endpoints`` are ``host`` or ``host:port`` (54555 by default); reads go to a random one, and what does not
        answer is passed over. ``cert_dir`` has ca.crt, client.crt and client.key. What is left out is found as
        ``milpactl`` finds it: ``$MILPA_ENDPOINTS``, else ``localhost:54555``; ``$MILPA_CERT_DIR``, else
        ``$MILPA_HOME/certs`` or ``/opt/milpa/certs``, then the current folder. ``timeout_s`` is for one call,
        ``retry_s`` is for how long servers that can't be reached are asked again (a watch goes on trying for
        ``timeout_s``). Raises ``Invalid`` for what is no endpoint."""
        self._to = Connection(endpoints, cert_dir, tls=tls, timeout_s=timeout_s, retry_s=retry_s)
        self._lock = threading.Lock()
        self._channels: dict[str, grpc.Channel] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends all connections and the calls on them. The client may be used again; it reconnects then."""
        with self._lock:
            channels, self._channels = self._channels, {}
        for channel in channels.values():
            channel.close()

    # ------------------------------------------------------------ writes

    def create(self, objects: Resource | Iterable[Resource], *, dry_run: bool = False) -> Results:
        """Creates one or thousands of objects; one result each, in order. Existing ones are ``ALREADY_EXISTS``."""
        return self._write("CREATE", objects, dry_run)

    def update(self, objects: Resource | Iterable[Resource], *, dry_run: bool = False) -> Results:
        """Changes labels, annotations and spec of existing objects."""
        return self._write("UPDATE", objects, dry_run)

    def apply(self, objects: Resource | Iterable[Resource], *, dry_run: bool = False) -> Results:
        """Creates the objects that don't exist and updates those that do."""
        return self._write("APPLY", objects, dry_run)

    def submit(self, objects: Resource | Iterable[Resource]) -> Results:
        """``create`` that raises ``WriteFailed`` if any object was not created (the others are)."""
        found = self.create(objects)
        if not all(result.ok for result in found):
            raise WriteFailed(found)
        return found

    def delete(self, kind: str | type[Resource], names: str | Iterable[str], *, cascade: bool = True) -> Results:
        """Deletes the named objects of a kind. ``DELETED`` means wished: a pod's key goes once its end is proved
        (``wait_deleted``). Without ``cascade`` the children of a ReplicaSet or Deployment are kept."""
        return self.delete_refs(calls.refs_of(kind, names), cascade=cascade)

    def delete_refs(self, refs: Sequence[Ref], *, cascade: bool = True) -> Results:
        """Deletes objects of any kinds; a ``Ref`` with a uid only the object that has it."""
        return self._send("Delete", calls.delete_requests(refs, cascade=cascade))

    # ------------------------------------------------------------ reads

    @overload
    def get(self, kind: type[R], name: str) -> R: ...
    @overload
    def get(self, kind: str, name: str) -> Resource: ...
    def get(self, kind: str | type[Resource], name: str) -> Resource:
        """One object. Raises ``NotFound``."""
        return calls.parse(calls.only([*self.list_raw(kind, name)], kind, name))

    @overload
    def list(self, kind: type[R], selector: str = "") -> builtins.list[R]: ...
    @overload
    def list(self, kind: str, selector: str = "") -> builtins.list[Resource]: ...
    def list(self, kind: str | type[Resource], selector: str = "") -> Any:
        """All objects of a kind that match a label selector such as ``"env in (dev, qa), app=writer"``, by name."""
        return [calls.parse(data) for data in self.list_raw(kind, selector=selector)]

    def list_raw(self, kind: str | type[Resource], name: str = "", selector: str = "") -> Iterator[bytes]:
        """Like ``list`` (like ``get`` with ``name``), but the stored JSON, as it comes in."""
        request = calls.list_request(kind, name, selector)
        for reply in self._stream("List", request, self._to.timeout_s):
            for item in reply.objects:
                yield item.json

    def watch(
        self,
        kind: str | type[Resource],
        name: str = "",
        selector: str = "",
        *,
        revision: int = 0,
        timeout_s: float | None = None,
    ) -> Iterator[WatchEvent]:
        """The objects present, then ``SYNCED``, then every change until the caller stops or ``timeout_s`` are over.

        Goes on by itself over broken connections; what changed meanwhile is told then, though steps in between may be
        left out. With ``revision`` only the changes after it are told.
        """
        cursor = WatchCursor(calls.kind_text(kind), name, selector, revision)
        attempts = self._to.attempts(read=True, retry_s=self._to.timeout_s)
        deadline = Deadline(timeout_s)
        while not deadline.passed:
            yield from self._watch_once(cursor, attempts, deadline.left_s)

    def logs(
        self, name: str, unit: str = "", *, lines: int = 0, limit_bytes: int = 0, follow: bool = False
    ) -> Iterator[bytes]:
        """The log of a pod's unit (``unit`` may be left out when there is but one) or of a node's agent: the last
        ``lines`` lines or ``limit_bytes`` bytes (0: all), then with ``follow`` what comes until the unit ends."""
        request = calls.logs_request(name, unit, lines=lines, limit_bytes=limit_bytes, follow=follow)
        for chunk in self._stream("Logs", request, None if follow else self._to.timeout_s):
            yield chunk.data

    def version(self) -> ServerVersion:
        """The server's version and its cluster."""
        from milpa_ray.proto import milpa_pb2 as pb

        return calls.server_version(self._unary("Version", pb.VersionRequest(), read=True))

    def offers(self) -> ClusterOffers:
        """What the cluster's instances are chosen from: its region, its defaults, and what is full."""
        from milpa_ray.proto import milpa_pb2 as pb

        return calls.cluster_offers(self._unary("Offers", pb.OffersRequest(), read=True))

    def dump(self, what: str = "all") -> dict[str, Any]:
        """Internal state for debugging: of ``all``, a kind, ``server`` or a controller. Secrets' values are left
        out."""
        found: dict[str, Any] = {}
        for chunk in self._stream("Dump", calls.dump_request(what), self._to.timeout_s):
            calls.add_dump(found, chunk)
        return found

    # ------------------------------------------------------------ waiting

    def wait(
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
        for event in self.watch("Pod", waiting.watched_name, selector, timeout_s=timeout_s):
            pods = waiting.feed(event)
            if pods is not None:
                return pods
        raise WaitTimeout(f"not {waiting.wanted} after {timeout_s:g} s: {waiting.missing()}")

    def wait_deleted(self, kind: str | type[Resource], name: str, *, timeout_s: float = 600.0) -> None:
        """Waits until the object is gone, its end proved. Raises ``WaitTimeout``."""
        there = False
        for event in self.watch(kind, name, timeout_s=timeout_s):
            there = calls.still_there(event, there)
            if not there:
                return
        raise WaitTimeout(f"{calls.kind_text(kind)} {name!r} is still there after {timeout_s:g} s")

    pod = staticmethod(calls.make_pod)

    # ------------------------------------------------------------ transport

    def _stub(self, endpoint: str) -> Any:
        import grpc

        from milpa_ray.proto import milpa_pb2_grpc

        with self._lock:
            channel = self._channels.get(endpoint)
            if channel is None:
                channel = self._channels[endpoint] = self._to.open(endpoint, grpc.secure_channel, grpc.insecure_channel)
        stub: Any = milpa_pb2_grpc.MilpaStub
        return stub(channel)

    def _unary(self, method: str, request: Any, *, read: bool) -> Any:
        import grpc

        attempts = self._to.attempts(read=read)
        while True:
            try:
                reply = getattr(self._stub(attempts.endpoint), method)(request, timeout=self._to.timeout_s)
            except grpc.RpcError as error:
                time.sleep(attempts.failed(error))
            else:
                self._to.preferred = attempts.endpoint
                return reply

    def _stream(self, method: str, request: Any, timeout_s: float | None) -> Iterator[Any]:
        import grpc

        attempts = self._to.attempts(read=True)
        started = False
        while True:
            call = getattr(self._stub(attempts.endpoint), method)(request, timeout=timeout_s)
            try:
                for reply in call:
                    started = True
                    yield reply
                return
            except grpc.RpcError as error:
                if started:
                    raise translate(error) from None
                time.sleep(attempts.failed(error))
            finally:
                call.cancel()

    def _watch_once(self, cursor: WatchCursor, attempts: Attempts, timeout_s: float | None) -> Iterator[WatchEvent]:
        import grpc

        call = self._stub(attempts.endpoint).Watch(cursor.request(), timeout=timeout_s)
        try:
            for reply in call:
                attempts.answered()
                yield from cursor.feed(reply)
            time.sleep(FIRST_DELAY_S)  # the server is stopping
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.OUT_OF_RANGE:
                cursor.expired()
                time.sleep(FIRST_DELAY_S)
            elif timeout_s is None or error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                time.sleep(attempts.failed(error))
        finally:
            call.cancel()

    def _write(self, verb: str, objects: Resource | Iterable[Resource], dry_run: bool) -> Results:
        return self._send("Write", calls.write_requests(verb, checks.resources(objects), dry_run=dry_run))

    def _send(self, method: str, requests: Iterator[Any]) -> Results:
        done: Results = []
        for request in requests:
            try:
                done += calls.results(self._unary(method, request, read=False))
            except ApiUnavailable as error:
                if not done:
                    raise
                done += calls.not_sent(request, str(error))
        return done
