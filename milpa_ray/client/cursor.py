"""Where a watch stands, so that it goes on after a broken connection as if nothing had happened. No I/O.

While the objects present are being told, the cursor's revision stays 0: a break begins anew. Afterwards it resumes at
the last revision seen. When the server has forgotten that revision, everything is listed again, and the cursor turns
the list into the changes since: what it knows unchanged is left out, what is missing is REMOVED.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

from milpa_ray.client import checks
from milpa_ray.client.results import Change, WatchEvent

if TYPE_CHECKING:
    from milpa_ray.proto import milpa_pb2 as pb

_CHANGES = tuple(Change)


class WatchCursor:
    """One watch over all its connections."""

    def __init__(self, kind: str, name: str = "", selector: str = "", revision: int = 0) -> None:
        self.kind = kind
        self.name = checks.text("name", name)
        self.selector = checks.text("selector", selector)
        self.revision = checks.revision("revision", revision)
        self._known: dict[str, int] = {}
        self._seen: set[str] = set()
        self._synced = revision > 0

    def request(self) -> pb.WatchRequest:
        """What to send when (re)connecting."""
        from milpa_ray.proto import milpa_pb2 as pb

        self._seen.clear()
        return pb.WatchRequest(kind=self.kind, name=self.name, label_selector=self.selector, revision=self.revision)

    def expired(self) -> None:
        """The server has forgotten our revision: the next request lists anew."""
        self.revision = 0

    def feed(self, reply: pb.WatchReply) -> Iterator[WatchEvent]:
        """The events in ``reply`` that are new to the watcher."""
        for event in reply.events:
            change, item = _CHANGES[event.change], event.object
            if change is Change.SYNCED:
                yield from self._sync()
            elif change is Change.PRESENT:
                yield from self._present(item)
            elif change is Change.REMOVED:
                self._known.pop(item.name, None)
                yield WatchEvent(change, item.name, item.json, item.revision)
            else:
                self._known[item.name] = item.revision
                yield WatchEvent(change, item.name, item.json, item.revision)
        self.revision = reply.revision

    def _present(self, item: pb.Object) -> Iterator[WatchEvent]:
        before = self._known.get(item.name)
        self._seen.add(item.name)
        self._known[item.name] = item.revision
        if before == item.revision:
            return
        change = Change.PRESENT
        if self._synced:
            change = Change.ADDED if before is None else Change.MODIFIED
        yield WatchEvent(change, item.name, item.json, item.revision)

    def _sync(self) -> Iterator[WatchEvent]:
        for name in [name for name in self._known if name not in self._seen]:
            del self._known[name]
            body = {"kind": self.kind, "metadata": {"name": name}}
            yield WatchEvent(Change.REMOVED, name, json.dumps(body).encode())
        if not self._synced:
            self._synced = True
            yield WatchEvent(Change.SYNCED)
