"""Durations as users type them: ``90``, ``90s``, ``1.5m``, ``2h``, ``1h30m``."""

import re

from cli.reporting import UsageError

_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PART = re.compile(r"(\d+(?:\.\d+)?|\.\d+)(ms|[smhd])")


def parse_duration_s(text: str) -> float:
    """Seconds that ``text`` stands for; a bare number is seconds.

    Raises:
        UsageError: it is no duration.
    """
    plain = text.strip().lower()
    if re.fullmatch(r"\d+(\.\d+)?", plain):
        return float(plain)
    if plain and not _PART.sub("", plain):
        return sum(float(number) * _UNITS_S[unit] for number, unit in _PART.findall(plain))
    raise UsageError(f'"{text}" is no duration; write for example 60s, 5m or 1h30m')
