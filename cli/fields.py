"""The fields that users name in ``--sort-by`` and ``--for``: read in the forms that people write, checked against the
API's types. A field that does not exist would sort nothing and be waited for in vain.
"""

import re
import types
from collections.abc import Iterable
from typing import Any, Union, get_args, get_origin

from cli.kinds import KindName
from cli.reporting import UsageError

_INDEX = re.compile(r"\[(\d+)\]")
MOST_NAMED = 12
"""Fields that a message lists at most."""


def field_path(text: str) -> str:
    """The dotted path in ``status.phase``, ``.status.phase``, ``{.status.phase}`` or ``{.spec.units[0].name}``."""
    plain = text.strip().removeprefix("{").removesuffix("}").strip()
    return _INDEX.sub(r".\1", plain.removeprefix("$")).removeprefix(".")


def problem(kind: KindName, path: str) -> str:
    """Why ``path`` names no single value in the objects of ``kind``; empty when it does."""
    from pydantic import BaseModel

    from milpa_ray.api import find_kind
    from milpa_ray.api.schema import field_names, suggest

    found = find_kind(kind.name)
    annotation: Any = found.model if found is not None else None
    walked: list[str] = []
    for word in path.split("."):
        after = _step(annotation, word)
        if after is None:
            where = f" in {'.'.join(walked)}" if walked else ""
            names = list(field_names(annotation)) if _is(annotation, BaseModel) else []
            return f'{kind.plural} have no field "{word}"{where}' + (suggest(word, names) or _listed(names))
        walked.append(word)
        annotation = after
    if _is(annotation, BaseModel):
        return f"{path} of {kind.plural} is no single value; name one of its fields" + _listed(field_names(annotation))
    if get_origin(annotation) in (dict, tuple):
        which = "a key, as in" if get_origin(annotation) is dict else "a position, as in"
        return f"{path} of {kind.plural} is no single value; name {which} {path}.{_example(annotation)}"
    return ""


def sort_path(text: str, kinds: Iterable[KindName]) -> str:
    """The path that ``--sort-by text`` means; empty for empty text.

    Raises:
        UsageError: none of the kinds has a value there.
    """
    if not text:
        return ""
    path = field_path(text)
    found = [problem(kind, path) for kind in kinds]
    if all(found):
        raise UsageError(f"--sort-by: {found[0]}")
    return path


def _step(annotation: Any, word: str) -> Any:
    """The type at ``word`` below ``annotation``; None where there is none."""
    from pydantic import BaseModel

    from milpa_ray.api.schema import field_names

    if _is(annotation, BaseModel):
        info = field_names(annotation).get(word)
        return _plain(info.annotation) if info is not None else None
    if get_origin(annotation) is dict and word:
        return _plain(get_args(annotation)[1])
    if get_origin(annotation) is tuple and word.isdigit():
        return _plain(get_args(annotation)[0])
    return None


def _plain(annotation: Any) -> Any:
    """Without ``| None``."""
    if get_origin(annotation) in (Union, types.UnionType):
        return next(part for part in get_args(annotation) if part is not type(None))
    return annotation


def _is(annotation: Any, base: type) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, base)


def _example(annotation: Any) -> str:
    return "app" if get_origin(annotation) is dict else "0"


def _listed(names: Iterable[str]) -> str:
    known = list(names)
    if not known:
        return ""
    return f"; there are {', '.join(known[:MOST_NAMED])}" + (" and more" if len(known) > MOST_NAMED else "")
