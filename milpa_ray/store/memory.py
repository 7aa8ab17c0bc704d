"""The store in memory, with etcd's semantics: for simulations, and for tests that need no etcd process.

It keeps time by the running event loop, so leases run out under virtual time too, and never suspends inside a call:
each call is one atomic step. A call of ``revision()`` brings every watch a progress mark. Nothing survives the process.

Invariants: ``_log[i]`` holds the changes of revision ``_first + i`` and every revision since compaction is in it;
``_versions`` holds per key its changes since compaction, oldest first, and the last one before it unless a deletion.
"""

import asyncio
from bisect import bisect_left, insort
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import count, islice

from milpa_ray.errors import Compacted, LeaseGone, StoreUnavailable
from milpa_ray.store.port import Change, Entry, Page, Put, Txn, TxnResult, WatchBatch
from milpa_ray.store.validation import check_txn

MIN_LEASE_TTL_S = 2
"""etcd's floor with its default election time-out."""
_WATCH_REVISIONS = 1000
"""Most revisions that one watch batch covers."""


@dataclass(slots=True)
class _Lease:
    ttl_s: int
    expiry: asyncio.TimerHandle
    keys: set[str] = field(default_factory=set)


@dataclass(slots=True, eq=False)
class _Watcher:
    """``pending``: changes from ``next_revision`` on may be in the range. ``marked``: the last revision handed out."""

    start: str
    end: str
    next_revision: int
    marked: int
    pending: bool = True
    mark_wanted: bool = False
    closed: bool = False
    wake: asyncio.Event = field(default_factory=asyncio.Event)

    def notice(self, changes: list[Change], revision: int) -> None:
        if any(self.start <= change.entry.key < self.end for change in changes):
            self.pending = True
            self.wake.set()
        elif not self.pending:
            self.next_revision = max(self.next_revision, revision + 1)


class _Data:
    """The state behind all sessions: plain, synchronous steps."""

    def __init__(self) -> None:
        self.revision = 1
        self.compacted = 0
        self.watchers: list[_Watcher] = []
        self.leases: dict[int, _Lease] = {}
        self._lease_ids = count(1)
        self._keys: list[str] = []
        self._versions: dict[str, list[Change]] = {}
        self._first = 2
        self._log: list[tuple[Change, ...]] = []

    def current(self, key: str) -> Entry | None:
        versions = self._versions.get(key)
        return None if not versions or versions[-1].deleted else versions[-1].entry

    def entries(self, start: str, end: str, revision: int) -> Iterator[Entry]:
        for index in range(bisect_left(self._keys, start), len(self._keys)):
            key = self._keys[index]
            if key >= end:
                return
            for change in reversed(self._versions[key]):
                if change.entry.mod_revision <= revision:
                    if not change.deleted:
                        yield change.entry
                    break

    def keys(self, start: str, end: str) -> list[str]:
        return [entry.key for entry in self.entries(start, end, self.revision)]

    def changes(self, first: int, last: int) -> Iterator[Change]:
        """Changes of the revisions ``first`` to ``last``, which must not be compacted."""
        for changes in self._log[max(0, first - self._first) : last - self._first + 1]:
            yield from changes

    def apply(self, txn: Txn) -> int:
        """Writes; the revision. The caller has checked the compares."""
        for op in txn.ops:
            if isinstance(op, Put) and op.lease and op.lease not in self.leases:
                raise LeaseGone(f"lease {op.lease} has run out; nothing was written")
        revision = self.revision + 1
        changes: list[Change] = []
        for op in txn.ops:
            if isinstance(op, Put):
                changes.append(self._put(op, revision))
            else:
                keys = self.keys(op.key, op.end) if op.end else [op.key]
                changes.extend(self._deleted(keys, revision))
        return self._record(changes)

    def expire(self, lease_id: int) -> None:
        lease = self.leases.pop(lease_id, None)
        if lease is not None:
            lease.expiry.cancel()
            self._record(self._deleted(sorted(lease.keys), self.revision + 1))

    def grant(self, ttl_s: int) -> int:
        lease_id = next(self._lease_ids)
        ttl_s = max(ttl_s, MIN_LEASE_TTL_S)
        self.leases[lease_id] = _Lease(ttl_s, self._timer(lease_id, ttl_s))
        return lease_id

    def renew(self, lease_id: int) -> int:
        lease = self.leases.get(lease_id)
        if lease is None:
            return 0
        lease.expiry.cancel()
        lease.expiry = self._timer(lease_id, lease.ttl_s)
        return lease.ttl_s

    def compact(self, revision: int) -> None:
        if revision <= self.compacted:
            raise Compacted(self.compacted)
        if revision > self.revision:
            raise ValueError(f"revision {revision} lies in the future; the store is at {self.revision}")
        touched = {change.entry.key for change in self.changes(self._first, revision)}
        for key in touched:
            self._forget(key, revision)
        if touched:
            self._keys = [key for key in self._keys if key in self._versions]
        del self._log[: max(0, revision - self._first)]
        self._first = max(self._first, revision)
        self.compacted = revision
        for watcher in self.watchers:
            watcher.wake.set()

    def _timer(self, lease_id: int, ttl_s: int) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(ttl_s, self.expire, lease_id)

    def _put(self, op: Put, revision: int) -> Change:
        old = self.current(op.key)
        if old is None:
            entry = Entry(op.key, op.value, revision, revision, 1, op.lease)
            if op.key not in self._versions:
                insort(self._keys, op.key)
                self._versions[op.key] = []
        else:
            entry = Entry(op.key, op.value, old.create_revision, revision, old.version + 1, op.lease)
        self._detach(old)
        if op.lease:
            self.leases[op.lease].keys.add(op.key)
        change = Change(entry)
        self._versions[op.key].append(change)
        return change

    def _deleted(self, keys: Iterable[str], revision: int) -> list[Change]:
        changes = []
        for key in keys:
            old = self.current(key)
            if old is not None:
                self._detach(old)
                changes.append(Change(Entry(key, b"", 0, revision, 0), deleted=True))
                self._versions[key].append(changes[-1])
        return changes

    def _detach(self, old: Entry | None) -> None:
        if old is not None and old.lease in self.leases:
            self.leases[old.lease].keys.discard(old.key)

    def _record(self, changes: list[Change]) -> int:
        if changes:
            self.revision += 1
            self._log.append(tuple(changes))
            for watcher in self.watchers:
                watcher.notice(changes, self.revision)
        return self.revision

    def _forget(self, key: str, revision: int) -> None:
        versions = self._versions.get(key, [])
        older = sum(1 for change in versions if change.entry.mod_revision <= revision)
        if older:
            del versions[: older - 1]
            if versions[0].deleted:
                del versions[0]
            if not versions:
                self._versions.pop(key, None)


class MemoryStore:
    """A ``Store`` in memory; a session over shared data, so that closing one leaves the others alone."""

    def __init__(self, data: _Data | None = None) -> None:
        self._data = data if data is not None else _Data()
        self._watchers: list[_Watcher] = []
        self._closed = False

    def session(self) -> "MemoryStore":
        """Another session on the same data, like a second client of one etcd."""
        return MemoryStore(self._data)

    async def get(self, key: str) -> Entry | None:
        return self._open().current(key)

    async def scan(
        self, start: str, end: str, *, limit: int = 1000, revision: int = 0, keys_only: bool = False
    ) -> Page:
        data = self._open()
        if limit <= 0:
            raise ValueError("limit must be positive")
        if revision > data.revision:
            raise ValueError(f"revision {revision} lies in the future; the store is at {data.revision}")
        if 0 < revision < data.compacted:
            raise Compacted(data.compacted)
        at = revision or data.revision
        found = list(islice(data.entries(start, end, at), limit + 1))
        next_key = found.pop().key if len(found) > limit else ""
        if keys_only:
            found = [replace(entry, value=b"") for entry in found]
        return Page(tuple(found), at, next_key)

    async def revision(self) -> int:
        data = self._open()
        for watcher in data.watchers:
            watcher.mark_wanted = True
            watcher.wake.set()
        return data.revision

    async def commit(self, txn: Txn) -> TxnResult:
        data = self._open()
        check_txn(txn)
        current = tuple(data.current(compare.key) for compare in txn.compares)
        for compare, entry in zip(txn.compares, current, strict=True):
            if compare.mod_revision != (entry.mod_revision if entry else 0):
                return TxnResult(False, data.revision, current)
        return TxnResult(True, data.apply(txn))

    async def watch(self, start: str, end: str, revision: int) -> AsyncIterator[WatchBatch]:
        data = self._open()
        if revision < 1:
            raise ValueError("a watch starts from a revision of at least 1")
        if revision > data.revision + 1:
            raise Compacted(data.revision + 1)
        watcher = _Watcher(start, end, revision, marked=revision - 1)
        for watchers in (data.watchers, self._watchers):
            watchers.append(watcher)
        try:
            while not watcher.closed:
                batch = self._next_batch(watcher)
                if batch is None:
                    watcher.wake.clear()
                    await watcher.wake.wait()
                else:
                    yield batch
        finally:
            for watchers in (data.watchers, self._watchers):
                watchers.remove(watcher)

    def _next_batch(self, watcher: _Watcher) -> WatchBatch | None:
        data, first = self._data, watcher.next_revision
        last = min(data.revision, first + _WATCH_REVISIONS - 1)
        if watcher.pending and max(1, first - 1) < data.compacted:
            raise Compacted(data.compacted)
        if watcher.pending and first <= last:
            watcher.next_revision, watcher.marked, watcher.pending = last + 1, last, last < data.revision
            in_range = (c for c in data.changes(first, last) if watcher.start <= c.entry.key < watcher.end)
            return WatchBatch(last, tuple(in_range))
        watcher.pending = False
        marked, wanted = watcher.marked, watcher.mark_wanted
        watcher.mark_wanted = False
        if not wanted or data.revision <= marked:
            return None
        watcher.marked = data.revision
        return WatchBatch(data.revision)

    async def lease_grant(self, ttl_s: int) -> int:
        return self._open().grant(ttl_s)

    async def lease_keepalive(self, lease: int) -> int:
        return self._open().renew(lease)

    async def lease_revoke(self, lease: int) -> None:
        self._open().expire(lease)

    async def compact(self, revision: int) -> None:
        self._open().compact(revision)

    async def close(self) -> None:
        """Ends this session's watches. The data and other sessions stay; leases run out as their keepers stop."""
        self._closed = True
        for watcher in self._watchers:
            watcher.closed = True
            watcher.wake.set()

    def _open(self) -> _Data:
        if self._closed:
            raise StoreUnavailable("this session of the store is closed")
        return self._data
