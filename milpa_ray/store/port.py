"""What Milpa asks of its store: a small slice of etcd v3.

Keys are text, values bytes. Revisions are etcd's: one counter for the whole store, raised by every commit.
Implementations pass ``tests/store/contract.py``.

Errors of every method: ``StoreUnavailable`` (nothing is known about a commit's effect then), ``StoreFull``,
``LeaseGone`` where a lease is used, ``Compacted`` where a revision is given.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Protocol

MAX_TXN_OPS = 128
MAX_TXN_BYTES = 1_500_000


@dataclass(frozen=True, slots=True)
class Entry:
    """One key as of some revision. ``version`` counts the writes since it was created (1 at creation)."""

    key: str
    value: bytes
    create_revision: int
    mod_revision: int
    version: int = 1
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Compare:
    """Holds when the key's last write has this revision. 0: the key does not exist."""

    key: str
    mod_revision: int


@dataclass(frozen=True, slots=True)
class Put:
    key: str
    value: bytes
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Delete:
    """Deletes one key, or with ``end`` all keys from ``key`` to before ``end``."""

    key: str
    end: str = ""


Op = Put | Delete


@dataclass(frozen=True, slots=True)
class Txn:
    """All ``compares`` hold: all ``ops`` are done, at one revision. Else none is."""

    compares: tuple[Compare, ...] = ()
    ops: tuple[Op, ...] = ()


@dataclass(frozen=True, slots=True)
class TxnResult:
    """``revision`` is the commit's when ``ok``, else the store's. ``current`` holds, when not ok, the compared keys
    as they are (None: absent), in the order of the compares."""

    ok: bool
    revision: int
    current: tuple[Entry | None, ...] = ()


@dataclass(frozen=True, slots=True)
class Page:
    """``next_key`` is empty when nothing follows; ask for it at the same ``revision``."""

    entries: tuple[Entry, ...]
    revision: int
    next_key: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    """One key's change. ``entry.value`` is empty when ``deleted``; its mod_revision is then the deletion's."""

    entry: Entry
    deleted: bool = False


@dataclass(frozen=True, slots=True)
class WatchBatch:
    """All changes of the range up to ``revision``, in order; changes of one transaction are never torn apart.
    Empty ``changes`` is a progress mark: the watcher has seen everything up to ``revision``."""

    revision: int
    changes: tuple[Change, ...] = field(default=())


class Store(Protocol):
    """Port to the store."""

    async def get(self, key: str) -> Entry | None:
        """Linearizable read of one key."""

    async def scan(
        self, start: str, end: str, *, limit: int = 1000, revision: int = 0, keys_only: bool = False
    ) -> Page:
        """Keys from ``start`` to before ``end``, in order, at most ``limit`` (> 0), as of ``revision`` (0: now,
        linearizable)."""

    async def revision(self) -> int:
        """The store's revision of the moment, linearizable."""

    async def commit(self, txn: Txn) -> TxnResult:
        """One transaction. At most 128 compares and 128 ops, 1.5 MB, one write per key (ValueError otherwise)."""

    def watch(self, start: str, end: str, revision: int) -> AsyncIterator[WatchBatch]:
        """Changes of keys from ``start`` to before ``end``, from ``revision`` on (inclusive). Reconnects and resumes by
        itself without loss or repetition; ends only by ``Compacted`` or by closing the iterator or the store.

        ``Compacted`` also says that ``revision`` lies beyond the store's next one: the store was restored from an older
        state. After a call of ``revision()`` an idle watch gets a progress mark, unless the etcd release is one whose
        marks are not exact (before 3.4.25 and 3.5.8): then only at etcd's own interval."""

    async def lease_grant(self, ttl_s: int) -> int:
        """A new lease; keys put with it vanish when it runs out."""

    async def lease_keepalive(self, lease: int) -> int:
        """Renews the lease once. Seconds it has left; 0: it is gone."""

    async def lease_revoke(self, lease: int) -> None:
        """Ends the lease; its keys vanish. No error when it is gone already."""

    async def compact(self, revision: int) -> None:
        """Forgets all history before ``revision``."""

    async def close(self) -> None:
        """Ends watches and connections."""
