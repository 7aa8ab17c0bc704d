import asyncio
import random
from collections import Counter, deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milpa_ray.errors import StoreFull, StoreUnavailable
from milpa_ray.store.group import GroupOutcome, KeyUse, Verdict, WriteGroup, group_commit, pack
from milpa_ray.store.memory import MemoryStore
from milpa_ray.store.port import MAX_TXN_BYTES, MAX_TXN_OPS, Compare, Delete, Put, Txn, TxnResult
from milpa_ray.store.validation import check_txn

FENCE = Compare("map", 2)


class Recorder(MemoryStore):
    """Notes the transactions that write, and how many were under way at once."""

    def __init__(self) -> None:
        super().__init__()
        self.txns: list[Txn] = []
        self.most_in_flight = 0
        self._in_flight = 0

    async def commit(self, txn: Txn) -> TxnResult:
        if txn.ops:
            self.txns.append(txn)
        self._in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self._in_flight)
        await asyncio.sleep(0)
        try:
            return await super().commit(txn)
        finally:
            self._in_flight -= 1


class Flaky(MemoryStore):
    """Loses answers by a seed: before the effect, after it, or the effect itself comes late."""

    def __init__(self, seed: int, rate: float) -> None:
        super().__init__()
        self._random = random.Random(seed)
        self._rate = rate
        self.late: list[asyncio.Task[TxnResult]] = []

    async def commit(self, txn: Txn) -> TxnResult:
        await asyncio.sleep(self._random.random() * 0.001)
        if not txn.ops or self._random.random() > self._rate:
            return await super().commit(txn)
        fate = self._random.choice(("never", "done", "late"))
        if fate == "done":
            await super().commit(txn)
        elif fate == "late":
            self.late.append(asyncio.create_task(self._commit_late(txn)))
        raise StoreUnavailable(fate)

    async def _commit_late(self, txn: Txn) -> TxnResult:
        await asyncio.sleep(self._random.random() * 0.01)
        return await super().commit(txn)


keys = st.integers(0, 40).map(lambda number: f"k{number:02}")
values = st.one_of(st.binary(max_size=20), st.sampled_from([b"x" * 300_000, b"x" * 700_000]))


@st.composite
def write_groups(draw: st.DrawFn) -> WriteGroup:
    written = draw(st.lists(keys, min_size=1, max_size=5, unique=True))
    compared = draw(st.lists(keys, max_size=3, unique=True))
    ops = tuple(Put(key, draw(values)) if draw(st.booleans()) else Delete(key) for key in written)
    if sum(len(op.value) for op in ops if isinstance(op, Put)) > MAX_TXN_BYTES - 10_000:
        ops = ops[:1]
    return WriteGroup(tuple(Compare(key, draw(st.sampled_from([0, 0, 5]))) for key in compared), ops)


@given(st.lists(write_groups(), max_size=60))
@settings(max_examples=150, deadline=None)
def test_packing_keeps_limits_and_order_and_loses_nothing(groups: list[WriteGroup]) -> None:
    waiting = deque(range(len(groups)))
    lots = []
    while waiting:
        lot = pack(groups, FENCE, waiting, KeyUse())
        assert lot, "packing must make headway"
        lots.append(lot)
    assert sorted(index for lot in lots for index in lot) == list(range(len(groups)))
    place = {index: number for number, lot in enumerate(lots) for index in lot}
    for lot in lots:
        members = [groups[index] for index in lot]
        compares = {FENCE} | {compare for group in members for compare in group.compares}
        check_txn(Txn(tuple(compares), tuple(op for group in members for op in group.ops)))
        assert len({compare.key for compare in compares}) == len(compares)
    for later, second in enumerate(groups):
        for earlier, first in enumerate(groups[:later]):
            if {op.key for op in first.ops} & {op.key for op in second.ops}:
                assert place[earlier] < place[later]


@given(st.lists(write_groups(), max_size=40), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_the_outcomes_are_those_of_some_order(groups: list[WriteGroup], in_flight: int) -> None:
    """Each committed group's last write is what the store shows, and a conflict shows a compare that fails."""

    async def run() -> None:
        store = MemoryStore()
        await store.commit(Txn(ops=(Put("map", b""),)))
        outcomes = await group_commit(store, groups, FENCE, in_flight=in_flight)
        expected: dict[str, tuple[int, bytes | None]] = {}
        for group, outcome in zip(groups, outcomes, strict=True):
            if outcome.verdict is Verdict.COMMITTED:
                for op in group.ops:
                    last = (outcome.revision, op.value if isinstance(op, Put) else None)
                    expected[op.key] = max(expected.get(op.key, last), last, key=lambda found: found[0])
            else:
                assert outcome.verdict is Verdict.CONFLICT
                revisions = [entry.mod_revision if entry else 0 for entry in outcome.current]
                assert revisions != [compare.mod_revision for compare in group.compares]
        for key, (_, value) in expected.items():
            entry = await store.get(key)
            assert (entry.value if entry else None) == value

    asyncio.run(run())


async def test_full_transactions_in_flight_together() -> None:
    store = Recorder()
    await store.commit(Txn(ops=(Put("map", b""),)))
    store.txns.clear()
    groups = [WriteGroup((Compare(f"k{n}", 0),), (Put(f"k{n}", b""),)) for n in range(127 * 10)]
    outcomes = await group_commit(store, groups, FENCE)
    assert {outcome.verdict for outcome in outcomes} == {Verdict.COMMITTED}
    assert [len(txn.ops) for txn in store.txns] == [127] * 10  # 128 compares, the fence included
    assert store.most_in_flight == 4


async def test_shared_compares_are_sent_once() -> None:
    store = Recorder()
    await store.commit(Txn(ops=(Put("map", b""), Put("parent", b""))))
    groups = [WriteGroup((Compare("parent", 2),), (Put(f"child{n}", b""),)) for n in range(MAX_TXN_OPS)]
    await group_commit(store, groups, FENCE)
    assert store.txns[1].compares == (FENCE, Compare("parent", 2))
    assert len(store.txns) == 2


async def test_groups_that_only_compare_the_same_key_travel_together() -> None:
    store = Recorder()
    await store.commit(Txn(ops=(Put("parent", b""),)))
    groups = [WriteGroup((Compare("parent", 2),), (Put(f"child{n}", b""),)) for n in range(3 * MAX_TXN_OPS)]
    await group_commit(store, groups, None)
    assert store.most_in_flight == 3


async def test_one_key_written_often_keeps_its_order() -> None:
    store = Recorder()
    await group_commit(store, [WriteGroup(ops=(Put("a", str(n).encode()),)) for n in range(20)], None)
    assert [txn.ops[0].value for txn in store.txns if isinstance(txn.ops[0], Put)] == [
        str(n).encode() for n in range(20)
    ]


async def test_a_group_is_never_split_by_a_conflict() -> None:
    store = MemoryStore()
    await store.commit(Txn(ops=(Put("map", b""), Put("taken", b""))))
    both = WriteGroup((Compare("a", 0), Compare("taken", 0)), (Put("a", b""), Put("taken", b"mine")))
    other = WriteGroup((Compare("b", 0),), (Put("b", b""),))
    outcomes = await group_commit(store, [both, other], FENCE)
    assert [outcome.verdict for outcome in outcomes] == [Verdict.CONFLICT, Verdict.COMMITTED]
    assert await store.get("a") is None
    assert outcomes[0].current[0] is None
    assert outcomes[0].current[1] is not None


async def test_a_range_is_deleted_in_its_place() -> None:
    store = MemoryStore()
    groups = [
        WriteGroup(ops=(Put("a1", b""),)),
        WriteGroup(ops=(Delete("a", "b"),)),
        WriteGroup(ops=(Put("a2", b""),)),
    ]
    outcomes = await group_commit(store, groups, None)
    assert [outcome.revision for outcome in outcomes] == [2, 3, 4]
    assert [entry.key for entry in (await store.scan("a", "b")).entries] == ["a2"]


async def test_too_large_a_group_is_refused_before_anything_is_sent() -> None:
    store = Recorder()
    large = WriteGroup(ops=tuple(Put(f"k{n}", b"") for n in range(MAX_TXN_OPS + 1)))
    torn = WriteGroup((Compare("map", 7),), (Put("b", b""),))
    for wrong in (large, torn):
        with pytest.raises(ValueError, match=r"split it|two revisions"):
            await group_commit(store, [WriteGroup(ops=(Put("a", b""),)), wrong], FENCE)
    assert not store.txns


async def test_a_full_store_stops_the_commit() -> None:
    class Full(Recorder):
        async def commit(self, txn: Txn) -> TxnResult:
            if len(self.txns) >= 2:
                raise StoreFull("full")
            return await super().commit(txn)

    groups = [WriteGroup((), (Put(f"k{n}", b""),)) for n in range(1000)]
    outcomes = await group_commit(Full(), groups, None, in_flight=1)
    assert [outcome.verdict for outcome in outcomes] == [Verdict.COMMITTED] * 256 + [Verdict.NOT_DONE] * 744
    assert isinstance(outcomes[-1].error, StoreFull)


async def test_a_silent_store_leaves_unknown_what_was_sent() -> None:
    class Silent(MemoryStore):
        async def commit(self, txn: Txn) -> TxnResult:
            raise StoreUnavailable("silent")

    groups = [WriteGroup((), (Put(f"k{n}", b""),)) for n in range(300)]
    outcomes = await group_commit(Silent(), groups, None, in_flight=1)
    assert Counter(outcome.verdict for outcome in outcomes) == {Verdict.UNKNOWN: 128, Verdict.NOT_DONE: 172}


@pytest.mark.parametrize("seed", range(6))
async def test_lost_answers_never_lose_or_repeat_a_write(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counters raised by compare-and-swap through a store that loses answers: every verdict must be the truth."""
    monkeypatch.setattr("milpa_ray.store.group._RESOLVE_PAUSES_S", (0.0, 0.01))
    store = Flaky(seed, rate=0.3)
    names = [f"k{n}" for n in range(200)]
    for turn in range(4):
        entries = {name: await store.get(name) for name in names}
        groups = [
            WriteGroup((Compare(name, e.mod_revision if (e := entries[name]) else 0),), (Put(name, b"%d" % turn),))
            for name in names
        ]
        outcomes = await group_commit(store, groups, None)
        await asyncio.gather(*store.late)
        await _check_truth(store, dict(zip(names, outcomes, strict=True)), turn)


async def _check_truth(store: MemoryStore, outcomes: dict[str, GroupOutcome], turn: int) -> None:
    for name, outcome in outcomes.items():
        assert outcome.verdict in (Verdict.COMMITTED, Verdict.UNKNOWN)
        entry = await store.get(name)
        if outcome.verdict is Verdict.COMMITTED:
            assert entry is not None
            assert (entry.value, entry.mod_revision) == (b"%d" % turn, outcome.revision)
            assert entry.version <= turn + 1


async def test_an_unguarded_write_is_not_sent_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("milpa_ray.store.group._RESOLVE_PAUSES_S", (0.0,))
    store = Flaky(1, rate=1.0)
    outcomes = await group_commit(store, [WriteGroup(ops=(Put("event", b"x"),))], None)
    assert outcomes[0].verdict is Verdict.UNKNOWN
    await asyncio.gather(*store.late)
    entry = await store.get("event")
    assert entry is None or entry.version == 1


async def test_somebody_elses_equal_bytes_are_no_witness(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another writer has touched the shared parent with the very same bytes, while our answer got lost."""
    monkeypatch.setattr("milpa_ray.store.group._RESOLVE_PAUSES_S", (0.0,))

    class Lost(MemoryStore):
        async def commit(self, txn: Txn) -> TxnResult:
            if any(op.key == "child" for op in txn.ops):
                await super().commit(Txn(ops=(Put("parent", b"same"),)))
                raise StoreUnavailable("lost before it took effect")
            return await super().commit(txn)

    store = Lost()
    await store.commit(Txn(ops=(Put("parent", b"same"),)))
    group = WriteGroup((Compare("parent", 2), Compare("child", 0)), (Put("parent", b"same"), Put("child", b"")))
    outcomes = await group_commit(store, [group], None)
    assert outcomes[0].verdict is Verdict.UNKNOWN
