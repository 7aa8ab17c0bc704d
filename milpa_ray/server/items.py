"""One stored object as the API server holds it: the stored bytes, parsed at most once and only when needed."""

import base64
import binascii
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import from_json, to_json

from milpa_ray.store.port import Entry


@dataclass(frozen=True, slots=True)
class Meta:
    """The parts of an object's metadata that lists and writes look at."""

    uid: str
    owner_uid: str
    labels: dict[str, str]
    deleting: bool


@dataclass(slots=True, eq=False)
class Item:
    """``kind`` is lower case, as in keys. Immutable but for what is parsed lazily."""

    key: str
    kind: str
    name: str
    json: bytes
    revision: int
    _meta: Meta | None = field(default=None, repr=False)

    @classmethod
    def of(cls, entry: Entry, kind: str, name: str) -> "Item":
        return cls(entry.key, kind, name, entry.value, entry.mod_revision)

    @property
    def body(self) -> dict[str, Any]:
        """The whole object, parsed anew at each call; the caller may change it."""
        found: dict[str, Any] = from_json(self.json)
        return found

    @property
    def meta(self) -> Meta:
        if self._meta is None:
            found = self.body.get("metadata", {})
            self._meta = Meta(
                found.get("uid", ""),
                found.get("ownerUID", ""),
                found.get("labels", {}),
                bool(found.get("deletionTimestamp")),
            )
        return self._meta

    @property
    def shown(self) -> bytes:
        """The object as users may see it: of a Secret's values only the lengths."""
        if self.kind != "secret":
            return self.json
        body = self.body
        body["data"] = {key: hidden(value) for key, value in body.get("data", {}).items()}
        return to_json(body)


def hidden(value: str) -> str:
    """What is shown for a Secret's value: its length, such as ``19 bytes``, in base64 as all values are."""
    try:
        length = len(base64.b64decode(value))
    except (binascii.Error, ValueError):
        length = len(value)
    return base64.b64encode(f"{length} bytes".encode()).decode()
