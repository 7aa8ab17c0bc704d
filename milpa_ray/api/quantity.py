"""Quantities as Kubernetes writes them: ``"0.5"``, ``"100m"``, ``"2Gi"``, ``"1e3"``, ``"60G"``.

Pure text to number and back. Knows the grammar and its limits, not what a quantity is for; ``ResourceSpec`` keeps the
user's text and whoever computes with it converts it here.
"""

import math
import re
from dataclasses import dataclass
from decimal import Decimal, localcontext
from typing import Annotated

_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "K": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}
_SCALE: dict[str, Decimal] = {s: Decimal(10) ** e for s, e in _DECIMAL.items()} | {
    s: Decimal(2) ** e for s, e in _BINARY.items()
}
# Lengths are bounded, so that no text of a user makes a number of a million digits.
_NUMBER = r"(?P<number>[+-]?(?:\d{1,40}(?:\.\d{0,40})?|\.\d{1,40}))"
_PATTERN = re.compile(_NUMBER + r"(?:[eE](?P<exponent>[+-]?\d{1,3})|(?P<suffix>[KMGTPE]i|[numkKMGTPE]?))", re.ASCII)
MAX = Decimal(2**63 - 1)
"""Greatest absolute value, as in Kubernetes."""


class QuantityError(ValueError):
    """The text is no quantity. The message says why and gives an example."""


@dataclass(frozen=True, slots=True)
class NumberText:
    """Marks a model's text field in which manifests may give a plain number."""


@dataclass(frozen=True, slots=True)
class AnyCase:
    """Marks a model's text field that manifests may give in any case; it is kept in lower case."""


Quantity = Annotated[str, NumberText()]
"""Type of a field that holds a quantity's text; empty means not given."""


def parse(text: str) -> Decimal:
    """The exact value of ``text``.

    Raises:
        QuantityError: no quantity, or beyond 2^63 - 1.
    """
    match = _PATTERN.fullmatch(text)
    if match is None:
        raise QuantityError(
            f"{text[:40]!r} is no quantity; write a number with an optional suffix, such as '0.5', '500m', '2Gi', '60G'"
        )
    with localcontext(prec=200):
        value = Decimal(match["number"])
        value *= Decimal(10) ** int(match["exponent"]) if match["exponent"] else _SCALE[match["suffix"]]
    if abs(value) > MAX:
        raise QuantityError(f"{text[:40]!r} is too large; the greatest quantity is 2^63 - 1 (just under '8Ei')")
    return value


def to_bytes(text: str) -> int:
    """Bytes, a fraction rounded up; 0 for empty text.

    Raises:
        QuantityError: no quantity, or negative.
    """
    return math.ceil(_not_negative(text))


def to_cores(text: str) -> float:
    """CPU cores; 0.0 for empty text.

    Raises:
        QuantityError: no quantity, or negative.
    """
    return float(_not_negative(text))


def to_count(text: str) -> int:
    """A whole number, for GPUs; 0 for empty text.

    Raises:
        QuantityError: no quantity, negative, or a fraction.
    """
    value = _not_negative(text)
    if value != value.to_integral_value():
        raise QuantityError(f"{text!r} must be a whole number")
    return int(value)


def _not_negative(text: str) -> Decimal:
    value = parse(text) if text else Decimal(0)
    if value < 0:
        raise QuantityError(f"{text!r} must not be negative")
    return value


def format_bytes(count: int) -> str:
    """Shortest exact text of a byte count, such as ``"2Gi"``; ``parse`` gives the count back."""
    for suffix, exponent in reversed(_BINARY.items()):
        if count and count % (1 << exponent) == 0:
            return f"{count >> exponent}{suffix}"
    return str(count)
