"""Manifests: a file's text to objects, or to all of its errors at once.

Accepts what kubectl accepts where Milpa has the kind: several documents, JSON, ``kind: List``, kinds in any case and
abbreviated. ``status`` is Milpa's to write and is ignored, so that ``get -o yaml`` can be fed back. Reads no files and
sends nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from milpa_ray.api import document
from milpa_ray.api.kinds import KINDS, Kind, find_kind
from milpa_ray.api.meta import ObjectReference, Resource
from milpa_ray.api.reporting import LocatedError, LocatedErrors
from milpa_ray.api.schema import FieldError, Path, canonical, check, suggest
from milpa_ray.api.validation import NOT_CREATABLE, validate

MAX_OBJECTS = 200_000
"""Most objects in one file."""
MAX_ERRORS = 2000
"""Errors after which a file is not read further."""


class ManifestErrors(LocatedErrors):
    """All errors of one manifest."""


def load_manifests(text: str, source: str = "manifest") -> list[Resource]:
    """The objects of a manifest, in its order.

    Raises:
        ManifestErrors: anything at all is wrong; it holds every error of the text.
    """
    return _Loader(source).load(text)


def load_references(text: str, source: str = "manifest") -> list[ObjectReference]:
    """Kind (canonical) and name of each object, for deleting: nothing else of it is checked.

    Raises:
        ManifestErrors: the text cannot be read, or a kind or name is missing or unknown.
    """
    return _Loader(source).references(text)


def load_object(data: Mapping[str, Any], source: str = "object") -> Resource:
    """One object from plain data (camelCase names, as in JSON), with the checks of a manifest.

    Raises:
        ManifestErrors: anything is wrong; lines are 0.
    """
    loader = _Loader(source)
    loader.add(_Item(dict(data), (), document.Document(data, 0, 1)))
    return loader.result()[0]


@dataclass(frozen=True, slots=True)
class _Item:
    """One object's data, and where it stands in its document (below ``items`` of a List)."""

    value: Any
    prefix: Path
    document: document.Document

    @property
    def line(self) -> int:
        return document.line_of(self.document.value, self.prefix, self.document.line)


class _Loader:
    """Gathers the objects and the errors of one text."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._errors: list[LocatedError] = []
        self._objects: list[Resource] = []
        self._seen: dict[tuple[str, str], int] = {}

    def load(self, text: str) -> list[Resource]:
        for item in self._items(text):
            self.add(item)
            if len(self._errors) >= MAX_ERRORS:
                self._fail(item, (), f"more than {MAX_ERRORS} errors; the rest of the file was not looked at")
                break
        return self.result()

    def references(self, text: str) -> list[ObjectReference]:
        found = []
        for item in self._items(text):
            kind = self._kind(item)
            if kind is None:
                continue
            if name := _name(item.value):
                found.append(ObjectReference(kind=kind.name, name=name))
            else:
                self._fail(item, ("metadata", "name"), "is required", kind.name)
        self._raise()
        return found

    def result(self) -> list[Resource]:
        self._raise()
        return self._objects

    def _raise(self) -> None:
        if self._errors:
            raise ManifestErrors(self._errors)

    def _fail(self, item: _Item, path: Path, reason: str, subject: str = "") -> None:
        full = (*item.prefix, *path)
        line = document.line_of(item.document.value, full, item.document.line)
        self._errors.append(LocatedError(self._source, line, item.document.number, full, reason, subject))

    # ------------------------------------------------------------ documents

    def _items(self, text: str) -> list[_Item]:
        parsed = document.parse_documents(text)
        for problem in parsed.problems:
            self._errors.append(
                LocatedError(self._source, problem.line, problem.document, problem.path, problem.reason)
            )
        items = [item for found in parsed.documents for item in self._expand(found)]
        if not items and not self._errors:
            self._errors.append(LocatedError(self._source, 1, 1, (), "holds no objects; write at least one"))
        if len(items) > MAX_OBJECTS:
            reason = f"holds {len(items)} objects, the limit is {MAX_OBJECTS}; split the file"
            self._errors.append(LocatedError(self._source, 1, 1, (), reason))
            return []
        return items

    def _expand(self, found: document.Document) -> list[_Item]:
        """The document's objects: itself, or the items of a List."""
        whole = _Item(found.value, (), found)
        if not isinstance(found.value, dict):
            self._fail(whole, (), "expected an object with 'kind', 'metadata' and 'spec'")
            return []
        if not _is_list(found.value.get("kind")):
            return [whole]
        items = found.value.get("items")
        if not isinstance(items, list):
            self._fail(whole, ("items",), "is required: a list of objects")
            return []
        return [_Item(value, ("items", i), found) for i, value in enumerate(items)]

    # ------------------------------------------------------------ objects

    def add(self, item: _Item) -> None:
        """Checks one object and keeps it, or its errors."""
        kind = self._kind(item)
        if kind is None:
            return
        name = _name(item.value)
        subject = f'{kind.name} "{name[:100]}"' if name else kind.name
        if not kind.creatable:
            self._fail(item, ("kind",), f"a {kind.name} cannot be created: {NOT_CREATABLE[kind.name]}", subject)
            return
        value = {k: v for k, v in item.value.items() if k != "status"} | {"kind": kind.name}
        resource, errors = check_object(kind.model, value)
        for error in errors[:MAX_ERRORS]:
            self._fail(item, error.path, error.reason, subject)
        self._unique(item, kind, name, subject)
        if resource is not None and not errors:
            self._objects.append(resource)

    def _unique(self, item: _Item, kind: Kind, name: str, subject: str) -> None:
        if not name:
            return
        key = (kind.name, name)
        if key in self._seen:
            reason = f"the file has another {kind.name} {name!r} on line {self._seen[key]}; rename or remove one"
            self._fail(item, ("metadata", "name"), reason, subject)
        self._seen.setdefault(key, item.line)

    def _kind(self, item: _Item) -> Kind | None:
        if not isinstance(item.value, dict):
            self._fail(item, (), "expected an object with 'kind', 'metadata' and 'spec'")
            return None
        text = item.value.get("kind")
        known = ", ".join(kind.name for kind in KINDS if kind.creatable)
        if not isinstance(text, str) or not text:
            self._fail(item, ("kind",), f"is required; use one of {known}")
            return None
        kind = find_kind(text)
        if kind is None:
            hint = suggest(text, (kind.name for kind in KINDS)) or f"; use one of {known}"
            self._fail(item, ("kind",), f"unknown kind {text[:100]!r}{hint}")
        return kind


def check_object(model: type[Resource], value: Mapping[str, Any]) -> tuple[Resource | None, list[FieldError]]:
    """The object that ``value`` describes, and all its errors, of structure and of meaning."""
    resource, errors = check(model, canonical(model, value))
    if resource is None:
        return None, errors
    broken = [error.path for error in errors]
    # What was left out for its structure must not be reported again for what it then lacks.
    errors += [error for error in validate(resource) if not any(_overlap(error.path, path) for path in broken)]
    return resource, errors


def _overlap(one: Path, other: Path) -> bool:
    shorter = min(len(one), len(other))
    return one[:shorter] == other[:shorter]


def _name(value: Any) -> str:
    metadata = value.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    return name if isinstance(name, str) else ""


def _is_list(kind: Any) -> bool:
    if not isinstance(kind, str) or not kind.lower().endswith("list"):
        return False
    return kind.lower() == "list" or find_kind(kind[:-4]) is not None


__all__ = [
    "LocatedError",
    "ManifestErrors",
    "check_object",
    "load_manifests",
    "load_object",
    "load_references",
]
