"""Durations as users type them."""

import pytest

from cli.durations import parse_duration_s
from cli.reporting import UsageError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("60s", 60), ("5m", 300), ("1h30m", 5400), ("1.5m", 90), ("250ms", 0.25), ("0", 0), ("1D", 86400)],
)
def test_reads(text: str, seconds: float) -> None:
    assert parse_duration_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "s", "5 parsecs", "-3s", "1h-2m", "nan", "1e9"])
def test_refuses(text: str) -> None:
    with pytest.raises(UsageError, match="no duration"):
        parse_duration_s(text)
