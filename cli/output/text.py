"""Text for people: columns, ages, sizes. Knows nothing of kinds."""

from collections.abc import Iterable, Sequence
from datetime import datetime

Row = Sequence[str]

GAP = 3
_MINUTE, _HOUR, _DAY = 60, 3600, 86400
_YEAR = 365 * _DAY


def widths(rows: Sequence[Row]) -> list[int]:
    """Width of every column: its longest cell."""
    return [max(map(len, column)) for column in zip(*rows, strict=True)]


def columns(rows: Iterable[Row], column_widths: Sequence[int]) -> str:
    """The rows as lines; the last column is not padded. A cell longer than its column pushes the rest aside."""
    template = "".join(f"{{:<{width + GAP}}}" for width in column_widths[:-1]) + "{}"
    gap = " " * GAP
    lines = []
    for row in rows:
        line = template.format(*row)
        if any(len(cell) > width for cell, width in zip(row, column_widths, strict=True)):
            line = gap.join(f"{cell:<{width}}" for cell, width in zip(row, column_widths, strict=True))
        lines.append(line.rstrip())
    return "\n".join(lines) + "\n" if lines else ""


def table(rows: Sequence[Row]) -> str:
    """The rows as a table whose columns fit their longest cells."""
    return columns(rows, widths(rows)) if rows else ""


def one_line(text: str) -> str:
    """``text`` without line breaks and control characters: what an object holds must not drive the terminal."""
    if text.isprintable():
        return text
    spaced = " ".join(text.split())
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in spaced)


def printable(text: str) -> str:
    """``text`` with its line breaks kept, other control characters made visible."""
    return "\n".join(one_line(line) for line in text.splitlines())


def age(since: object, now: datetime) -> str:
    """Time from ``since`` (RFC 3339 text) to ``now``, as short as kubectl says it; ``<unknown>`` without a time."""
    if not isinstance(since, str):
        return "<unknown>"
    try:
        seconds = int((now - datetime.fromisoformat(since)).total_seconds())
    except (ValueError, TypeError):
        return "<unknown>"
    return duration(max(seconds, 0))


def duration(seconds: int) -> str:
    """Two units at most, the second one only where it still matters."""
    if seconds < 2 * _MINUTE:
        return f"{seconds}s"
    if seconds < 10 * _MINUTE:
        return _pair(seconds, _MINUTE, "m", 1, "s")
    if seconds < 3 * _HOUR:
        return f"{seconds // _MINUTE}m"
    if seconds < 8 * _HOUR:
        return _pair(seconds, _HOUR, "h", _MINUTE, "m")
    if seconds < 2 * _DAY:
        return f"{seconds // _HOUR}h"
    if seconds < 8 * _DAY:
        return _pair(seconds, _DAY, "d", _HOUR, "h")
    if seconds < 2 * _YEAR:
        return f"{seconds // _DAY}d"
    return _pair(seconds, _YEAR, "y", _DAY, "d")


def _pair(seconds: int, big: int, big_name: str, small: int, small_name: str) -> str:
    rest = seconds % big // small
    return f"{seconds // big}{big_name}" + (f"{rest}{small_name}" if rest else "")
