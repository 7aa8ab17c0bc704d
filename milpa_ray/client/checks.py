"""Checks of what callers of the Python client pass: a wrong argument is an ``Invalid`` that names it, says why and what
to pass instead, before anything is sent. Objects' own fields are checked elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from milpa_ray.errors import Invalid

if TYPE_CHECKING:
    from milpa_ray.api import Resource

MAX_INT32 = 2**31 - 1


def shown(value: object) -> str:
    """``value`` for a message, short."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def text(field: str, value: Any) -> str:
    """``value`` if it is text. Raises ``Invalid``."""
    if not isinstance(value, str):
        raise Invalid(f"{field}: {shown(value)} is no text; pass a str")
    return value


def texts(field: str, value: Any) -> list[str]:
    """The one text or the many. Raises ``Invalid``."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, Iterable) or isinstance(value, Mapping | bytes):
        raise Invalid(f"{field}: {shown(value)} is neither a text nor a list of texts; pass for example ['web', 'db']")
    return [text(f"{field}[{number}]", item) for number, item in enumerate(value)]


def whole(field: str, value: Any) -> int:
    """``value`` if it is a number that a request can carry. Raises ``Invalid``."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_INT32:
        raise Invalid(f"{field}: {shown(value)} is no whole number from 0 to {MAX_INT32}; 0 stands for no limit")
    return value


def revision(field: str, value: Any) -> int:
    """``value`` if it can be a revision of the store. Raises ``Invalid``."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise Invalid(f"{field}: {shown(value)} is no revision; pass one that a result or an event has told")
    return value


def seconds(field: str, value: Any) -> float:
    """``value`` if it is a duration. Raises ``Invalid``."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not value >= 0:
        raise Invalid(f"{field}: {shown(value)} is no duration; pass seconds, 0 or more")
    return value


def mapping(field: str, value: Any) -> dict[str, str]:
    """``value`` if it maps text to text. Raises ``Invalid``."""
    if not isinstance(value, Mapping):
        raise Invalid(f"{field}: {shown(value)} is no mapping; pass a dict such as {{'A': '1'}}")
    return {text(f"{field} key", key): text(f"{field}[{key!r}]", item) for key, item in value.items()}


def resources(objects: Any) -> list[Resource]:
    """The one object or the many. Raises ``Invalid``."""
    from milpa_ray.api import Resource

    if isinstance(objects, Resource):
        return [objects]
    remedy = "pass objects such as client.pod('web', 'nginx:1.27') makes, or of the classes of milpa_ray.api"
    if not isinstance(objects, Iterable) or isinstance(objects, str | bytes | Mapping):
        raise Invalid(f"objects: {shown(objects)} is neither an object nor a list of objects; {remedy}")
    found = list(objects)
    for number, item in enumerate(found):
        if not isinstance(item, Resource):
            raise Invalid(f"objects[{number}]: {shown(item)} is no object; {remedy}")
    return found
