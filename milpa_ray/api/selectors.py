"""Label selectors: the text of ``-l`` and a manifest's ``LabelSelector``, compiled to one thing that matches labels.

Kubernetes' semantics: requirements are ANDed; ``!=`` and ``notin`` also match objects without the key.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from milpa_ray.api import names
from milpa_ray.api.network import LabelSelector
from milpa_ray.api.network import SelectorOperator as Operator
from milpa_ray.errors import Invalid


class SelectorError(Invalid):
    """The selector's text is wrong; the message says where and shows the forms there are."""


@dataclass(frozen=True, slots=True)
class Requirement:
    key: str
    operator: Operator
    values: frozenset[str] = frozenset()

    def matches(self, labels: Mapping[str, str]) -> bool:
        value = labels.get(self.key)
        match self.operator:
            case Operator.IN:
                return value is not None and value in self.values
            case Operator.NOT_IN:
                return value is None or value not in self.values
            case Operator.EXISTS:
                return value is not None
            case Operator.DOES_NOT_EXIST:
                return value is None

    def __str__(self) -> str:
        values = sorted(self.values)
        match self.operator:
            case Operator.IN:
                return f"{self.key}={values[0]}" if len(values) == 1 else f"{self.key} in ({','.join(values)})"
            case Operator.NOT_IN:
                return f"{self.key}!={values[0]}" if len(values) == 1 else f"{self.key} notin ({','.join(values)})"
            case Operator.EXISTS:
                return self.key
            case Operator.DOES_NOT_EXIST:
                return f"!{self.key}"


@dataclass(frozen=True, slots=True)
class Selector:
    """All requirements must hold; a selector without any matches everything. ``str()`` gives text that parses to it."""

    requirements: tuple[Requirement, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        return all(requirement.matches(labels) for requirement in self.requirements)

    def __bool__(self) -> bool:
        return bool(self.requirements)

    def __str__(self) -> str:
        return ",".join(map(str, self.requirements))


_TOKEN = re.compile(r"\s*(?:(?P<op>==|!=|=|!|,|\(|\))|(?P<word>[^\s=!,()]+))")
_OPERATORS = frozenset(("==", "!=", "=", "!", ",", "(", ")"))
_FORMS = "write 'key=value', 'key!=value', 'key in (a, b)', 'key notin (a, b)', 'key' or '!key', joined by commas"
_MAX_TEXT = 65_536


def parse_selector(text: str) -> Selector:
    """The selector that ``-l text`` asks for; empty text matches everything.

    Raises:
        SelectorError: the text is no selector.
    """
    if len(text) > _MAX_TEXT:
        raise SelectorError(f"label selector is longer than {_MAX_TEXT} characters; name fewer values")
    return Selector(tuple(_Parser(text).requirements()))


def compile_selector(selector: LabelSelector) -> Selector:
    """The compiled form of a manifest's selector. An empty one matches everything.

    Raises:
        SelectorError: a key or value is no label's, or an operator does not go with its values.
    """
    found = [_checked(key, Operator.IN, [value]) for key, value in selector.match_labels.items()]
    found += [_checked(e.key, e.operator, list(e.values)) for e in selector.match_expressions]
    return Selector(tuple(found))


def _checked(key: str, operator: Operator, values: list[str]) -> Requirement:
    if reason := names.qualified(key):
        raise SelectorError(f"label key {key!r}: {reason}")
    if operator in (Operator.IN, Operator.NOT_IN) and not values:
        raise SelectorError(f"label {key!r}: operator {operator} needs at least one value")
    if operator in (Operator.EXISTS, Operator.DOES_NOT_EXIST) and values:
        raise SelectorError(f"label {key!r}: operator {operator} takes no values")
    for value in values:
        if reason := names.label_value(value):
            raise SelectorError(f"value of label {key!r}: {reason}")
    return Requirement(key, operator, frozenset(values))


class _Parser:
    """One pass over the text's tokens."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = list(self._scan(text.rstrip()))
        self._at = 0

    @staticmethod
    def _scan(text: str) -> Iterator[str]:
        at = 0
        while at < len(text):
            match = _TOKEN.match(text, at)
            assert match is not None  # every character but white space is in one of the two groups
            yield match["op"] or match["word"]
            at = match.end()

    def requirements(self) -> Iterator[Requirement]:
        if not self._tokens:
            return
        yield self._requirement()
        while self._peek():
            self._expect(",")
            yield self._requirement()

    def _peek(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def _next(self) -> str:
        token = self._peek()
        self._at += 1
        return token

    def _fail(self, found: str, wanted: str) -> SelectorError:
        what = f"found {found!r}" if found else "the text ends"
        return SelectorError(f"label selector {self._text[:200]!r}: {what} where {wanted} is needed; {_FORMS}")

    def _expect(self, token: str) -> None:
        if (found := self._next()) != token:
            raise self._fail(found, repr(token))

    def _word(self, wanted: str) -> str:
        word = self._next()
        if not word or word in _OPERATORS:
            raise self._fail(word, wanted)
        return word

    def _requirement(self) -> Requirement:
        if self._peek() == "!":
            self._next()
            return _checked(self._word("a label's key"), Operator.DOES_NOT_EXIST, [])
        key = self._word("a label's key")
        match self._peek():
            case "" | ",":
                return _checked(key, Operator.EXISTS, [])
            case "=" | "==":
                return _checked(key, Operator.IN, [self._value()])
            case "!=":
                return _checked(key, Operator.NOT_IN, [self._value()])
            case "in":
                return _checked(key, Operator.IN, self._values())
            case "notin":
                return _checked(key, Operator.NOT_IN, self._values())
            case other:
                raise self._fail(other, "an operator (=, ==, !=, in, notin) or ','")

    def _value(self) -> str:
        self._next()
        return "" if self._peek() in ("", ",") else self._word("a value")

    def _values(self) -> list[str]:
        self._next()
        self._expect("(")
        values = [self._item()]
        while self._peek() == ",":
            self._next()
            values.append(self._item())
        self._expect(")")
        return values

    def _item(self) -> str:
        """A value in parentheses; nothing between commas is the empty value, as in Kubernetes."""
        return "" if self._peek() in (",", ")") else self._word("a value")
