"""Plain data to models: canonical form, strict types, and errors that a user can act on.

The structural half of checking user input; ``validation`` is the other half and works on models. Driven by the
models' annotations alone, so a new field needs nothing here. Not on the path of reading from the store.
"""

import difflib
import json
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from milpa_ray.api.meta import Model
from milpa_ray.api.quantity import AnyCase, NumberText

Path = tuple[str | int, ...]
M = TypeVar("M", bound=Model)
MAX_ERRORS = 500
"""Structural errors that are looked at in one object; with more the rest of the checks is not made."""

# What users of Kubernetes write out of habit.
_HABITS = {
    "containers": "Milpa calls them 'units'",
    "initContainers": "Milpa calls them 'initUnits'",
    "containerPort": "Milpa calls it 'port'",
    "limits": "write cpu, memory and gpu in 'resources' itself",
    "requests": "write cpu, memory and gpu in 'resources' itself",
    "stringData": "write base64 text in 'data'",
}


@dataclass(frozen=True, slots=True)
class FieldError:
    """One thing wrong with one field. ``reason`` says what, and what to do instead."""

    path: Path
    reason: str

    @property
    def field(self) -> str:
        return path_text(self.path)

    def __str__(self) -> str:
        return f"{self.field}: {self.reason}" if self.path else self.reason


def path_text(path: Path) -> str:
    """``("spec", "units", 1, "image")`` as ``spec.units[1].image``; odd keys are quoted in brackets."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        elif step.replace("-", "_").isidentifier():
            text += f".{step}" if text else step
        else:
            text += f'["{step}"]'
    return text


def suggest(name: str, known: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` for the nearest of ``known``, or empty text."""
    by_lower = {k.lower(): k for k in known}
    near = difflib.get_close_matches(name.lower()[:100], by_lower, n=1, cutoff=0.6)
    return f"; did you mean {by_lower[near[0]]!r}?" if near else ""


def field_names(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """The model's fields by their names on the wire."""
    return {info.alias or name: info for name, info in model.model_fields.items()}


# ---------------------------------------------------------------- canonical form

Converter = Callable[[Any], Any]


def canonical(model: type[Model], value: Any) -> Any:
    """A copy of ``value`` as the model wants it: choices in their own case, quantities as text, nulls left out.

    Whatever does not fit is passed on as it is, for the strict check to name.
    """
    return _model_converter(model)(value)


@cache
def _model_converter(model: type[Model]) -> Converter:
    fields: dict[str, Converter] | None = None

    def convert(value: Any) -> Any:
        nonlocal fields
        if not isinstance(value, dict):
            return value
        if fields is None:  # late, for models that hold themselves
            fields = {
                name: found
                for name, info in field_names(model).items()
                if (found := _converter(info.annotation, tuple(info.metadata))) is not None
            }
        return {k: fields[k](v) if k in fields else v for k, v in model.from_manifest(value).items() if v is not None}

    return convert


def _converter(annotation: Any, metadata: tuple[Any, ...] = ()) -> Converter | None:
    """How a field's value becomes canonical, or None when it stays as it is."""
    if any(isinstance(mark, NumberText) for mark in metadata):
        return _number_text
    if any(isinstance(mark, AnyCase) for mark in metadata):
        return _lower
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _converter(arguments[0], arguments[1:])
    if origin in (Union, types.UnionType):
        inner = [found for a in arguments if a is not type(None) and (found := _converter(a)) is not None]
        return inner[0] if len(inner) == 1 else None
    if origin is tuple:
        found = _converter(arguments[0])
        return None if found is None else _each(found)
    if origin is Literal:
        return _choice(arguments)
    if isinstance(annotation, type):
        if issubclass(annotation, StrEnum):
            return _choice(tuple(str(member) for member in annotation))
        if issubclass(annotation, Model):
            return _model_converter(annotation)
    return None


def _each(convert: Converter) -> Converter:
    return lambda value: [convert(item) for item in value] if isinstance(value, list) else value


def _choice(known: tuple[str, ...]) -> Converter:
    by_lower = {choice.lower(): choice for choice in known}
    return lambda value: by_lower.get(value.lower(), value) if isinstance(value, str) else value


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


def _number_text(value: Any) -> Any:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return str(value) if number else value


# ---------------------------------------------------------------- strict types


def check(model: type[M], value: Any) -> tuple[M | None, list[FieldError]]:
    """The model that ``value`` (in canonical form) describes, and everything that is wrong with its structure.

    With errors the model is what is left without the wrong parts, so that the semantic checks can go on; None when
    too little is left.
    """
    found, details = _validate(model, value)
    if not details:
        return found, []
    errors = [FieldError(tuple(d["loc"]), _reason(model, d)) for d in details[:MAX_ERRORS]]
    if len(details) > MAX_ERRORS:
        return None, errors
    rest = value
    for _ in range(3):
        rest = _without(model, rest, details)
        found, details = _validate(model, rest)
        if not details:
            return found, errors
    return None, errors


def _validate(model: type[M], value: Any) -> tuple[M | None, list[ErrorDetails]]:
    try:
        # JSON, since in strict mode pydantic takes text for enums and lists for tuples there only.
        text = json.dumps(value, ensure_ascii=True)
        return model.model_validate_json(text, strict=True, by_alias=True, by_name=False), []
    except ValidationError as error:
        return None, error.errors(include_url=False, include_context=True)


def _without(model: type[Model], value: Any, details: list[ErrorDetails]) -> Any:
    """A copy of ``value`` without its wrong parts, and with placeholders for missing ones."""
    rest = json.loads(json.dumps(value))
    for detail in details:
        path = detail["loc"]
        parent, at = _parent(rest, path)
        if parent is None:
            continue
        if detail["type"] == "missing":
            parent[at] = _placeholder(model, detail["loc"])
        else:
            parent.pop(at, None)
    return rest


def _placeholder(model: type[Model], path: Path) -> Any:
    """Something of the right type for a required field that is missing."""
    parent = model_at(model, path[:-1])
    annotation = field_names(parent)[str(path[-1])].annotation if parent is not None else str
    if isinstance(annotation, type) and issubclass(annotation, StrEnum):
        return str(next(iter(annotation)))
    return 1 if annotation is int else ""


def _parent(value: Any, path: Path) -> tuple[dict[str, Any] | None, str]:
    """The innermost mapping on the way to ``path`` and the key in it; a wrong item takes its whole list along."""
    found: tuple[dict[str, Any] | None, str] = (None, "")
    for step in path:
        if isinstance(value, dict):
            found = (value, str(step))
            value = value.get(str(step))
        elif isinstance(value, list) and isinstance(step, int) and step < len(value):
            value = value[step]
        else:
            break
    return found


def model_at(model: type[BaseModel], path: Path) -> type[BaseModel] | None:
    """The model that ``path`` leads to below ``model``, or None when something else is there."""
    annotation: Any = model
    for step in path:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            info = field_names(annotation).get(str(step))
            if info is None:
                return None
            annotation = info.annotation
        else:
            annotation = get_args(annotation)[-2 if isinstance(step, int) else -1]
        if get_origin(annotation) in (Union, types.UnionType):
            annotation = next(a for a in get_args(annotation) if a is not type(None))
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


# ---------------------------------------------------------------- words

_EXPECTED: Mapping[str, str] = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing_size": "a smaller number",
    "float_type": "a number",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping (key: value)",
    "model_type": "a mapping (key: value)",
    "model_attributes_type": "a mapping (key: value)",
    "datetime_type": "a time, such as 2024-01-31T12:00:00Z",
    "datetime_parsing": "a time, such as 2024-01-31T12:00:00Z",
    "datetime_from_date_parsing": "a time, such as 2024-01-31T12:00:00Z",
}


def _reason(model: type[Model], detail: ErrorDetails) -> str:
    """The error in a user's words. The value itself is never quoted but for choices: it may be a secret."""
    kind, path, got = detail["type"], tuple(detail["loc"]), detail["input"]
    context: dict[str, Any] = detail.get("ctx", {})
    if kind == "missing":
        return "is required"
    if kind == "extra_forbidden":
        return _unknown(model, path)
    if kind in ("enum", "literal_error"):
        return f"{str(got)[:80]!r} is not known; use {context['expected']}"
    if kind in _EXPECTED:
        return f"expected {_EXPECTED[kind]}, got {_kind_of(got)}{_remedy(kind, got)}"
    bounds = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
    for bound, words in bounds.items():
        if bound in context:
            return f"must be {words} {context[bound]}"
    return detail["msg"].removeprefix("Value error, ")


def _unknown(model: type[Model], path: Path) -> str:
    name, parent = str(path[-1]), model_at(model, path[:-1])
    known = list(field_names(parent)) if parent is not None else []
    if name in _HABITS:
        return f"unknown field {name!r}; {_HABITS[name]}"
    hint = suggest(name, known)
    return f"unknown field {name[:100]!r}" + (hint or (f"; known are {', '.join(known)}" if known else ""))


def _kind_of(value: Any) -> str:
    match value:
        case None:
            return "nothing"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return "a number"
        case str():
            return "text"
        case list() | tuple():
            return "a list"
        case _:
            return "a mapping"


def _remedy(kind: str, got: Any) -> str:
    if kind == "string_type" and isinstance(got, bool | int | float):
        return "; put it in quotes"
    if kind in ("int_type", "float_type", "bool_type") and isinstance(got, str):
        return "; write it without quotes" if got else "; give a value"
    if kind in ("tuple_type", "list_type") and not isinstance(got, dict):
        return "; write it in brackets: [...]"
    return ""
