"""Helpers over the store port that every implementation shares."""

from collections.abc import AsyncIterator, Sequence

from milpa_ray.store.port import MAX_TXN_OPS, Compare, Entry, Page, Store, Txn

_NEVER = 2**62
"""A revision that no key will ever have."""


async def pages(store: Store, start: str, end: str, *, limit: int = 1000) -> AsyncIterator[Page]:
    """All pages of a range, as of the first page's revision.

    Raises:
        Compacted: the revision was compacted meanwhile; start again.
    """
    revision = 0
    while True:
        page = await store.scan(start, end, limit=limit, revision=revision)
        yield page
        if not page.next_key:
            return
        start, revision = page.next_key, page.revision


async def get_many(store: Store, keys: Sequence[str]) -> dict[str, Entry | None]:
    """The keys as they are (None: absent), linearizable; up to 128 of them at one revision.

    Reads by a transaction whose compares cannot hold: one round trip, and the store writes nothing.
    """
    found: dict[str, Entry | None] = {}
    for first in range(0, len(keys), MAX_TXN_OPS):
        some = list(dict.fromkeys(keys[first : first + MAX_TXN_OPS]))
        result = await store.commit(Txn(tuple(Compare(key, _NEVER) for key in some)))
        found.update(zip(some, result.current, strict=True))
    return found
