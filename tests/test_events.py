"""Events are written in the background, in order, with a lease, and never hold up whoever records them."""

import asyncio

from milpa_ray import events
from milpa_ray.api import Event, ObjectReference, Pod
from milpa_ray.api.meta import ObjectMeta
from milpa_ray.clock import SystemClock
from milpa_ray.errors import StoreUnavailable
from milpa_ray.events import EventRecorder
from milpa_ray.keys import Keys, prefix_end
from milpa_ray.store.memory import MemoryStore
from milpa_ray.store.port import Txn, TxnResult
from tests.waiting import eventually

KEYS = Keys("c")


async def stored(store: MemoryStore) -> list[Event]:
    prefix = KEYS.prefix("Event")
    page = await store.scan(prefix, prefix_end(prefix), limit=10_000)
    assert all(entry.lease for entry in page.entries)
    return [Event.from_json(entry.value) for entry in page.entries]


async def test_events_are_written_in_order_and_leased() -> None:
    store = MemoryStore()
    pod = Pod(metadata=ObjectMeta(name="web", uid="u1"))
    async with EventRecorder(store, KEYS, SystemClock(), "pod-controller") as recorder:
        for number in range(250):
            recorder.record(pod, "pod-updated", f"change {number}")
    found = await stored(store)
    assert [event.message for event in found] == [f"change {number}" for number in range(250)]
    first = found[0]
    assert (first.involved_object.kind, first.involved_object.name, first.involved_object.uid) == ("Pod", "web", "u1")
    assert (first.status, first.source) == ("pod-updated", "pod-controller")
    assert first.metadata.creation_timestamp is not None


class Breaking(MemoryStore):
    """Refuses its first commits."""

    refuse = 2

    async def commit(self, txn: Txn) -> TxnResult:
        if self.refuse:
            self.refuse -= 1
            raise StoreUnavailable("no endpoint answers")
        return await super().commit(txn)


async def test_a_store_that_is_away_loses_nothing() -> None:
    store = Breaking()
    async with EventRecorder(store, KEYS, SystemClock(), "test") as recorder:
        recorder.record(ObjectReference(kind="Pod", name="a"), "pod-created")
        recorder.record(ObjectReference(kind="Pod", name="b"), "pod-created")
        await eventually(lambda: store.refuse == 0)
    assert [event.involved_object.name for event in await stored(store)] == ["a", "b"]


async def test_a_lease_that_is_gone_is_replaced() -> None:
    store = MemoryStore()
    async with EventRecorder(store, KEYS, SystemClock(), "test") as recorder:
        recorder.record(ObjectReference(kind="Pod", name="a"), "pod-created")
        await eventually(lambda: stored(store))
        prefix = KEYS.prefix("Event")
        (entry,) = (await store.scan(prefix, prefix_end(prefix))).entries
        await store.lease_revoke(entry.lease)
        assert await stored(store) == []
        recorder.record(ObjectReference(kind="Pod", name="b"), "pod-created")
        await eventually(lambda: stored(store))
    assert [event.involved_object.name for event in await stored(store)] == ["b"]


async def test_the_queue_is_bounded_and_counts_what_it_loses() -> None:
    recorder = EventRecorder(MemoryStore(), KEYS, SystemClock(), "test")
    for number in range(events.MAX_QUEUED + 7):
        recorder.record(ObjectReference(kind="Pod", name=str(number)), "pod-created", "x" * 5000)
    assert recorder.lost == 7
    recorder.start()
    await asyncio.sleep(0)
    await recorder.stop()
