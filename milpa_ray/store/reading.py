"""Helpers over the store port that every implementation shares."""

from collections.abc import AsyncIterator

from milpa_ray.store.port import Page, Store


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
