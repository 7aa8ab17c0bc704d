"""Columns, ages and the harmlessness of what objects hold."""

from datetime import UTC, datetime

import pytest

from cli.output.text import age, columns, duration, one_line, printable, table


def test_table_fits_the_longest_cell_and_leaves_no_trailing_blanks() -> None:
    assert table([["NAME", "AGE"], ["a-long-name", "5s"], ["b", ""]]) == "NAME          AGE\na-long-name   5s\nb\n"


def test_a_cell_longer_than_its_column_pushes_the_rest_aside() -> None:
    assert columns([["abcdef", "x"], ["a", "y"]], [3, 1]) == "abcdef   x\na     y\n"


def test_nothing_to_show_is_no_line() -> None:
    assert table([]) == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (150, "2m30s"),
        (599, "9m59s"),
        (600, "10m"),
        (3 * 3600 - 1, "179m"),
        (3 * 3600 + 60, "3h1m"),
        (8 * 3600, "8h"),
        (47 * 3600, "47h"),
        (49 * 3600, "2d1h"),
        (9 * 86400, "9d"),
        (3 * 365 * 86400, "3y"),
    ],
)
def test_durations_as_kubectl_says_them(seconds: int, text: str) -> None:
    assert duration(seconds) == text


def test_age() -> None:
    now = datetime(2026, 1, 1, 0, 1, tzinfo=UTC)
    assert age("2026-01-01T00:00:00.000000Z", now) == "60s"
    assert age("2026-01-01T00:02:00.000000Z", now) == "0s"
    assert age(None, now) == age("yesterday", now) == "<unknown>"


def test_control_characters_do_not_reach_the_terminal() -> None:
    assert one_line("a\nb\x1b[2J") == "a b\\x1b[2J"
    assert printable("a\nb\x07") == "a\nb\\x07"
