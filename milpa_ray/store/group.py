"""Group commit: many small atomic writes in as few transactions as etcd's limits allow.

Each ``WriteGroup`` is all or nothing and never split. A failed compare costs only the groups it belongs to: etcd tells
what each compared key is, so the rest is packed anew without searching. Groups that share a key which one of them
writes keep their order and never travel at the same time in different transactions. A lost answer is resolved by
reading what the keys are; a group is sent again only when its own compares make a second effect impossible.

It does not decide what to do about a conflict: the caller reads again and plans anew.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from milpa_ray.errors import MilpaError, StoreUnavailable
from milpa_ray.store.port import MAX_TXN_BYTES, MAX_TXN_OPS, Compare, Delete, Entry, Op, Put, Store, Txn, TxnResult
from milpa_ray.store.reading import get_many
from milpa_ray.store.validation import check_txn, compare_bytes, op_bytes

IN_FLIGHT = 4
_LOOK_AHEAD = 256
"""Most groups passed over for a shared key while one transaction is filled; keeps packing linear."""
_SENDINGS = 3
"""Most times that one group is sent when answers get lost."""
_RESOLVE_PAUSES_S = (0.1, 0.5, 2.0)
"""Pauses before the tries to read what a lost commit did."""


@dataclass(frozen=True, slots=True)
class WriteGroup:
    """Ops that are done together if all compares hold, or not at all."""

    compares: tuple[Compare, ...] = ()
    ops: tuple[Op, ...] = ()


class Verdict(StrEnum):
    """What became of a group."""

    COMMITTED = "committed"
    CONFLICT = "conflict"
    """A compare failed; nothing of the group was done."""
    FENCED = "fenced"
    """The fence has moved: stop everything. Not done, unless by a first sending whose answer got lost."""
    NOT_DONE = "not done"
    """Refused or never sent; ``error`` says why."""
    UNKNOWN = "unknown"
    """The answer was lost and the keys don't tell: read them again before anything else is decided."""


@dataclass(frozen=True, slots=True)
class GroupOutcome:
    """``revision``: the commit's; at a conflict the store's when it was found. ``current``: at a conflict, the group's
    compared keys in their order."""

    verdict: Verdict
    revision: int = 0
    current: tuple[Entry | None, ...] = ()
    error: MilpaError | None = None


async def group_commit(
    store: Store, groups: Sequence[WriteGroup], fence: Compare | None, *, in_flight: int = IN_FLIGHT
) -> list[GroupOutcome]:
    """Commits ``groups``, each transaction under ``fence``; the outcomes, in the order of the groups.

    At most ``in_flight`` transactions are under way. Once the fence has failed or the store has refused or gone
    silent, nothing more is sent.

    Raises:
        ValueError: a group breaks etcd's limits by itself, or compares one key with two revisions (nothing has been
            sent then).
    """
    for group in groups:
        txn = _txn([group], fence)
        check_txn(txn)
        if len({c.key for c in txn.compares}) < len(txn.compares):
            raise ValueError("a group compares one key (or the fence) with two revisions")
    return await _Run(store, groups, fence, in_flight).run()


@dataclass(slots=True)
class Packing:
    """A transaction being filled."""

    fence: Compare | None
    members: list[int] = field(default_factory=list)
    _compared: dict[str, int] = field(default_factory=dict)
    _written: set[str] = field(default_factory=set)
    _ops: int = 0
    _bytes: int = 0

    def __post_init__(self) -> None:
        if self.fence is not None:
            self._compared[self.fence.key] = self.fence.mod_revision
            self._bytes = compare_bytes(self.fence)

    def clashes(self, group: WriteGroup) -> bool:
        """Whether a key of the group is written here already, or compared with another revision."""
        if any(self._compared.get(c.key, c.mod_revision) != c.mod_revision for c in group.compares):
            return True
        return any(op.key in self._written for op in group.ops)

    def add(self, index: int, group: WriteGroup) -> bool:
        """Takes the group in. False: no room."""
        new = {c.key: c for c in group.compares if c.key not in self._compared}
        size = sum(map(compare_bytes, new.values())) + sum(map(op_bytes, group.ops))
        if (
            self._bytes + size > MAX_TXN_BYTES
            or self._ops + len(group.ops) > MAX_TXN_OPS
            or len(self._compared) + len(new) > MAX_TXN_OPS
        ):
            return False
        self.members.append(index)
        self._bytes += size
        self._ops += len(group.ops)
        self._compared.update((c.key, c.mod_revision) for c in new.values())
        self._written.update(op.key for op in group.ops)
        return True


class KeyUse:
    """Keys that groups compare and write; how often, so that they can be taken out again."""

    def __init__(self) -> None:
        self._touched: Counter[str] = Counter()
        self._written: Counter[str] = Counter()

    def __bool__(self) -> bool:
        return bool(self._touched)

    def add(self, group: WriteGroup) -> None:
        self._touched.update(c.key for c in group.compares)
        for op in group.ops:
            self._touched[op.key] += 1
            self._written[op.key] += 1

    def remove(self, groups: Iterable[WriteGroup]) -> None:
        for group in groups:
            self._touched.subtract(c.key for c in group.compares)
            for op in group.ops:
                self._touched[op.key] -= 1
                self._written[op.key] -= 1
        self._touched, self._written = +self._touched, +self._written  # without the zeros

    def meets(self, group: WriteGroup) -> bool:
        """Whether the order matters between the group and these: they share a key that one of them writes."""
        return any(op.key in self._touched for op in group.ops) or any(c.key in self._written for c in group.compares)


def pack(groups: Sequence[WriteGroup], fence: Compare | None, waiting: deque[int], busy: KeyUse) -> list[int]:
    """Takes from ``waiting`` the groups of the next transaction. ``busy``: the keys of transactions under way.

    A group that cannot go now stays in its place, and so does every later group that it meets. A group
    that deletes a range travels alone: what it touches is not known.
    """
    packing = Packing(fence)
    passed: list[int] = []
    blocked = KeyUse()
    while waiting and len(passed) < _LOOK_AHEAD:
        index = waiting[0]
        group = groups[index]
        if _has_range(group):
            if not (packing.members or passed or busy):
                packing.add(waiting.popleft(), group)
            break
        if busy.meets(group) or blocked.meets(group) or packing.clashes(group):
            passed.append(waiting.popleft())
            blocked.add(group)
        elif packing.add(index, group):
            waiting.popleft()
        else:
            break
    waiting.extendleft(reversed(passed))
    return packing.members


class _Run:
    """One group commit. ``_waiting`` holds what is not under way, in order; a group is in it, under way, or has its
    outcome."""

    def __init__(self, store: Store, groups: Sequence[WriteGroup], fence: Compare | None, in_flight: int) -> None:
        self._store = store
        self._groups = groups
        self._fence = fence
        self._in_flight = in_flight
        self._waiting = deque(range(len(groups)))
        self._busy = KeyUse()
        self._lost: Counter[int] = Counter()
        self._outcomes: list[GroupOutcome | None] = [None] * len(groups)
        self._stop: GroupOutcome | None = None

    async def run(self) -> list[GroupOutcome]:
        tasks: set[asyncio.Task[None]] = set()
        try:
            while self._waiting or tasks:
                self._start(tasks)
                if not tasks:
                    break
                done, tasks = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        stop = self._stop or GroupOutcome(Verdict.NOT_DONE)
        return [outcome or stop for outcome in self._outcomes]

    def _start(self, tasks: set[asyncio.Task[None]]) -> None:
        while self._waiting and len(tasks) < self._in_flight and self._stop is None:
            members = pack(self._groups, self._fence, self._waiting, self._busy)
            if not members:
                return
            tasks.add(asyncio.create_task(self._send(members)))
            for index in members:
                self._busy.add(self._groups[index])

    async def _send(self, members: list[int]) -> None:
        txn = _txn([self._groups[index] for index in members], self._fence)
        try:
            result = await self._store.commit(txn)
        except StoreUnavailable as error:
            await self._resolve(members, error)
        except MilpaError as error:
            self._end(members, GroupOutcome(Verdict.NOT_DONE, error=error))
            self._stop = self._stop or GroupOutcome(Verdict.NOT_DONE, error=error)
        else:
            self._answered(members, txn, result)
        finally:
            self._busy.remove(self._groups[index] for index in members)

    def _answered(self, members: list[int], txn: Txn, result: TxnResult) -> None:
        if result.ok:
            self._end(members, GroupOutcome(Verdict.COMMITTED, result.revision))
            return
        current = {c.key: entry for c, entry in zip(txn.compares, result.current, strict=True)}
        if self._fence is not None and not _holds(self._fence, current):
            self._stop = GroupOutcome(Verdict.FENCED)
            self._end(members, self._stop)
            return
        failed = [i for i in members if not all(_holds(c, current) for c in self._groups[i].compares)]
        for index in failed or members:  # a store that names no failed compare gets the whole lot re-read
            self._outcomes[index] = self._conflict(index, current, result.revision)
        self._again(index for index in members if self._outcomes[index] is None)

    def _conflict(self, index: int, current: dict[str, Entry | None], found_at: int) -> GroupOutcome:
        group = self._groups[index]
        if self._lost[index]:  # it may be our own first sending that moved the keys
            revision = _witnessed([group], current)
            return GroupOutcome(Verdict.COMMITTED, revision) if revision else GroupOutcome(Verdict.UNKNOWN)
        return GroupOutcome(Verdict.CONFLICT, found_at, tuple(current[c.key] for c in group.compares))

    async def _resolve(self, members: list[int], error: StoreUnavailable) -> None:
        """Finds out by reading what a commit without an answer did."""
        groups = [self._groups[index] for index in members]
        keys = dict.fromkeys(key for group in groups for key in _keys(group))
        current = await self._read(list(keys))
        if current is None:
            self._end(members, GroupOutcome(Verdict.UNKNOWN, error=error))
            self._stop = self._stop or GroupOutcome(Verdict.NOT_DONE, error=error)
            return
        revision = _witnessed(groups, current)
        if revision:
            self._end(members, GroupOutcome(Verdict.COMMITTED, revision))
            return
        again = []
        for index in members:
            group = self._groups[index]
            self._lost[index] += 1
            # The lost sending may still arrive: only a group whose own write breaks its own compare can go again.
            if (
                self._lost[index] < _SENDINGS
                and _guards_itself(group)
                and all(_holds(c, current) for c in group.compares)
            ):
                again.append(index)
            else:
                self._outcomes[index] = GroupOutcome(Verdict.UNKNOWN, error=error)
        self._again(again)

    async def _read(self, keys: list[str]) -> dict[str, Entry | None] | None:
        for pause_s in _RESOLVE_PAUSES_S:
            await asyncio.sleep(pause_s)
            try:
                return await get_many(self._store, keys)
            except StoreUnavailable:
                continue
        return None

    def _end(self, members: list[int], outcome: GroupOutcome) -> None:
        for index in members:
            self._outcomes[index] = outcome

    def _again(self, members: Iterable[int]) -> None:
        # To the front: whatever waits and shares a key with them comes later in the order.
        self._waiting.extendleft(reversed(list(members)))


def _txn(groups: Sequence[WriteGroup], fence: Compare | None) -> Txn:
    compares = dict.fromkeys((fence,) if fence is not None else ())
    compares.update((c, None) for group in groups for c in group.compares)
    return Txn(tuple(compares), tuple(op for group in groups for op in group.ops))


def _keys(group: WriteGroup) -> set[str]:
    return {c.key for c in group.compares}.union(op.key for op in group.ops)


def _has_range(group: WriteGroup) -> bool:
    return any(isinstance(op, Delete) and op.end for op in group.ops)


def _holds(compare: Compare, current: dict[str, Entry | None]) -> bool:
    entry = current[compare.key]
    return (entry.mod_revision if entry else 0) == compare.mod_revision


def _guards_itself(group: WriteGroup) -> bool:
    """Whether its effect breaks one of its own compares, so that it cannot take effect twice."""
    compared = {c.key: c.mod_revision for c in group.compares}
    return any(op.key in compared and (isinstance(op, Put) or compared[op.key] > 0) for op in group.ops)


def _witnessed(groups: Sequence[WriteGroup], current: Mapping[str, Entry | None]) -> int:
    """The revision at which a transaction of ``groups`` took effect, if its keys show it; else 0.

    A key that was compared, was written since and holds our value bears witness; every other key that was read must
    agree, since someone else may have written the same bytes to one of them.
    """
    ops = [op for group in groups for op in group.ops if op.key in current]
    compared = {c.key: c.mod_revision for group in groups for c in group.compares}
    for op in ops:
        entry = current[op.key]
        if isinstance(op, Put) and entry and entry.value == op.value:
            revision = entry.mod_revision
            if revision > compared.get(op.key, revision):
                return revision if all(_agrees(other, current[other.key], revision) for other in ops) else 0
    return 0


def _agrees(op: Op, entry: Entry | None, revision: int) -> bool:
    """Whether the key can be what ``op`` made of it at ``revision``, or what others made of that later."""
    if isinstance(op, Delete):
        return entry is None or entry.mod_revision > revision
    if entry is None or entry.mod_revision < revision:
        return False
    return entry.mod_revision > revision or entry.value == op.value
