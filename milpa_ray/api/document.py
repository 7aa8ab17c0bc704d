"""YAML (and so JSON) text to plain data that remembers its lines, with bounds that hold for hostile text.

Knows nothing of kinds and fields. Built on libyaml's events and not on a ready-made loader, since those expand aliases
without bound, recurse without bound, let a duplicate key win silently, and forget where a value stood.

Plain scalars are read by the YAML 1.2 core schema: ``yes`` and ``on`` are text, ``1:30`` is no number, and a date is
text; so what a user writes as an environment value stays what it was.
"""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

MAX_TEXT = 64 * 1024 * 1024
"""Longest text, in characters."""
MAX_DEPTH = 64
"""Deepest nesting."""
MAX_ALIASED = 100_000
"""Most values that aliases may repeat, in one text."""


_Event = Any  # yaml's stubs leave the events' attributes out
_Loader = Any


class Map(dict[str, Any]):
    """A mapping, with its line and its keys' lines (counted from 1)."""

    __slots__ = ("key_lines", "line")

    def __init__(self, line: int) -> None:
        super().__init__()
        self.line = line
        self.key_lines: dict[str, int] = {}


class Seq(list[Any]):
    """A list, with its line and its items' lines."""

    __slots__ = ("item_lines", "line")

    def __init__(self, line: int) -> None:
        super().__init__()
        self.line = line
        self.item_lines: list[int] = []


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with the text itself. ``document`` counts from 1."""

    line: int
    document: int
    path: tuple[str | int, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Document:
    """One document: ``value`` is made of Map, Seq and scalars."""

    value: Any
    line: int
    number: int


@dataclass(slots=True)
class Parsed:
    """All documents up to the first syntax error (empty ones left out), and all problems found."""

    documents: list[Document] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def line_of(value: Any, path: tuple[str | int, ...], default: int) -> int:
    """Line of what ``path`` leads to, or of the deepest part of it that is there."""
    line = default
    for step in path:
        if isinstance(value, Map):
            if step not in value:
                continue  # a step that canonical form has added, or a missing field: the mapping's own line
            line, value = value.key_lines.get(str(step), value.line), value[str(step)]
        elif isinstance(value, Seq) and isinstance(step, int) and step < len(value):
            line, value = value.item_lines[step], value[step]
    return line


def parse_documents(text: str) -> Parsed:
    """Parses ``text``. Never raises for what a text can hold: problems are in the answer."""
    if len(text) > MAX_TEXT:
        reason = f"the file has {len(text)} characters, the limit is {MAX_TEXT}; split it"
        return Parsed(problems=[Problem(1, 1, (), reason)])
    builder = _Builder(text)
    parsed = builder.run()
    if builder.broken and text.lstrip()[:1] == "{":
        return _as_json(text) or parsed  # JSON escapes that YAML lacks, such as \ud83d\ude00
    return parsed


def _as_json(text: str) -> Parsed | None:
    """The text as one JSON document, without lines; None when it is none, or one that repeats a key."""
    try:
        value = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        return None
    return None if _too_deep(value) else Parsed(documents=[Document(value, 1, 1)])


def _too_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return bool(level)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("duplicate key")
    return found


class _Broken(Exception):
    """The rest of the text cannot be read."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(reason)
        self.line = line
        self.reason = reason


@dataclass(slots=True)
class _Anchor:
    value: Any
    size: int


class _Builder:
    """Turns events into data. ``broken`` says that it ended at a syntax error."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._out = Parsed()
        self._anchors: dict[str, _Anchor | None] = {}
        self._path: list[str | int] = []
        self._size = 0
        self._aliased = 0
        self._number = 0
        self.broken = False

    def run(self) -> Parsed:
        try:
            loader = yaml.CSafeLoader(self._text)
            try:
                self._stream(loader)
            finally:
                loader.dispose()
        except _Broken as error:
            self._fail(error.line, error.reason)
        except yaml.MarkedYAMLError as error:
            self._fail(*self._explain(error))
        except (yaml.YAMLError, UnicodeError) as error:
            self._fail(1, f"not readable as YAML: {str(error).splitlines()[0]}")
        return self._out

    def _fail(self, line: int, reason: str) -> None:
        self.broken = True
        self._out.problems.append(Problem(line, max(self._number, 1), tuple(self._path), reason))

    def _explain(self, error: yaml.MarkedYAMLError) -> tuple[int, str]:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        reason = f"YAML syntax error: {error.problem or error.context}"
        if error.context and error.problem:
            reason += f" ({error.context})"
        lines = self._text.splitlines()
        if line <= len(lines) and re.match(r" *\t", lines[line - 1]):
            reason += "; the line begins with a tab, YAML indents with spaces"
        return line, reason

    def _stream(self, loader: _Loader) -> None:
        while not isinstance(event := loader.get_event(), yaml.StreamEndEvent):
            if isinstance(event, yaml.DocumentStartEvent):
                self._number += 1
                self._anchors = {}
                first = loader.get_event()
                value = self._node(loader, first, 0)
                if value is not None:
                    self._out.documents.append(Document(value, first.start_mark.line + 1, self._number))

    def _node(self, loader: _Loader, event: _Event, depth: int) -> Any:
        """The value that begins with ``event``."""
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event)
        line = event.start_mark.line + 1
        if depth > MAX_DEPTH:
            raise _Broken(line, f"nested deeper than {MAX_DEPTH} levels")
        before, anchor = self._size, event.anchor
        self._size += 1
        if anchor is not None:
            self._anchors[anchor] = None
        value: Any
        if isinstance(event, yaml.ScalarEvent):
            value = self._scalar(event, line)
        elif isinstance(event, yaml.MappingStartEvent):
            value = self._mapping(loader, event, depth)
        else:
            value = self._sequence(loader, event, depth)
        if anchor is not None:
            self._anchors[anchor] = _Anchor(value, self._size - before)
        return value

    def _alias(self, event: _Event) -> Any:
        line = event.start_mark.line + 1
        if event.anchor not in self._anchors:
            raise _Broken(line, f"alias *{event.anchor} names no anchor; write &{event.anchor} before it")
        anchor = self._anchors[event.anchor]
        if anchor is None:
            raise _Broken(line, f"alias *{event.anchor} stands inside of what it repeats")
        self._size += anchor.size
        self._aliased += anchor.size
        if self._aliased > MAX_ALIASED:
            raise _Broken(line, f"aliases repeat more than {MAX_ALIASED} values")
        return anchor.value

    def _sequence(self, loader: _Loader, start: _Event, depth: int) -> Seq:
        self._check_tag(start, "seq")
        found = Seq(start.start_mark.line + 1)
        self._path.append(0)
        while not isinstance(event := loader.get_event(), yaml.SequenceEndEvent):
            self._path[-1] = len(found)
            found.item_lines.append(event.start_mark.line + 1)
            found.append(self._node(loader, event, depth + 1))
        self._path.pop()
        return found

    def _mapping(self, loader: _Loader, start: _Event, depth: int) -> Map:
        self._check_tag(start, "map")
        found = Map(start.start_mark.line + 1)
        merges: list[tuple[int, Any]] = []
        self._path.append("")
        while not isinstance(event := loader.get_event(), yaml.MappingEndEvent):
            line = event.start_mark.line + 1
            key = self._key(event, line)
            self._path[-1] = key
            value = self._node(loader, loader.get_event(), depth + 1)
            if key == "<<" and event.implicit[0]:
                merges.append((line, value))
            elif key in found:
                reason = f"duplicate key {key!r}, given on line {found.key_lines[key]} already; remove one"
                self._out.problems.append(Problem(line, self._number, tuple(self._path), reason))
            else:
                found[key] = value
                found.key_lines[key] = line
        self._path.pop()
        for line, value in merges:
            self._merge(found, value, line)
        return found

    def _key(self, event: _Event, line: int) -> str:
        if isinstance(event, yaml.ScalarEvent):
            if event.anchor is not None:
                self._anchors[event.anchor] = _Anchor(event.value, 1)
            return str(event.value)
        if isinstance(event, yaml.AliasEvent) and isinstance(key := self._alias(event), str):
            return key
        raise _Broken(line, "a key must be text, not a mapping or a list")

    def _merge(self, into: Map, value: Any, line: int) -> None:
        """YAML's merge key ``<<``: what is there already wins."""
        for source in _sources(value):
            if not isinstance(source, Map):
                raise _Broken(line, "the merge key << takes a mapping or a list of mappings")
            for key, item in source.items():
                if key not in into:
                    into[key] = item
                    into.key_lines[key] = source.key_lines[key]

    def _check_tag(self, event: _Event, kind: str) -> None:
        if event.tag not in (None, "!", _TAG + kind):
            raise _Broken(event.start_mark.line + 1, f"tag {_tag_text(event.tag)} is not supported here; remove it")

    def _scalar(self, event: _Event, line: int) -> Any:
        text: str = event.value
        tag = event.tag
        if tag is None or tag == "!":
            return plain_scalar(text) if event.implicit[0] and tag is None else text
        match tag.removeprefix(_TAG):
            case "str":
                return text
            case "binary":
                return "".join(text.split())
            case "int" | "float" | "bool" | "null" as kind:
                value = plain_scalar(text)
                if _fits(value, kind):
                    return value
                raise _Broken(line, f"the value does not go with its tag !!{kind}")
            case _:
                raise _Broken(line, f"tag {_tag_text(tag)} is not supported; remove it")


_TAG = "tag:yaml.org,2002:"


def _tag_text(tag: str) -> str:
    return "!!" + tag.removeprefix(_TAG) if tag.startswith(_TAG) else tag[:80]


def _sources(value: Any) -> Iterator[Any]:
    if isinstance(value, Seq):
        yield from value
    else:
        yield value


def _fits(value: Any, kind: str) -> bool:
    match kind:
        case "int":
            return isinstance(value, int) and not isinstance(value, bool)
        case "float":
            return isinstance(value, int | float) and not isinstance(value, bool)
        case "bool":
            return isinstance(value, bool)
        case _:
            return value is None


_WORDS: dict[str, Any] = dict.fromkeys(("", "~", "null", "Null", "NULL"))
_WORDS |= dict.fromkeys(("true", "True", "TRUE"), True) | dict.fromkeys(("false", "False", "FALSE"), False)
# At most 19 digits: longer ones are identifiers, not numbers. A leading zero is one too (an account number).
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,18})")
_RADIX = re.compile(r"0o[0-7]{1,21}|0x[0-9a-fA-F]{1,16}")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]{0,18})(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]{1,3})?")
_NUMBER_START = frozenset("+-.0123456789")


def plain_scalar(text: str) -> Any:
    """Value of a scalar without quotes: None, bool, int, float or the text itself."""
    if text in _WORDS:
        return _WORDS[text]
    if text[0] not in _NUMBER_START or len(text) > 40:
        return text
    if _INT.fullmatch(text):
        return int(text)
    if _RADIX.fullmatch(text):
        return int(text, 0)
    if _FLOAT.fullmatch(text) and math.isfinite(value := float(text)):
        return value
    return text
