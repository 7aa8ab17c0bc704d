"""Runs ``milpactl explain`` and reads what it prints."""

import json
from typing import Any

from tests.cli.running import Ran, milpactl_here


def run(*args: str, stdin: str = "", env: dict[str, str] | None = None) -> Ran:
    """``milpactl explain`` by the shipped prices, whatever this machine's Milpa may have fetched."""
    return milpactl_here("explain", *args, stdin=stdin, env={"MILPA_HOME": "/nonexistent"} | (env or {}))


def explained(*args: str, code: int = 0) -> dict[str, Any]:
    """The explanation as JSON, of a command that ends with ``code``."""
    ran = run(*args, "-o", "json")
    assert ran.code == code, ran.err
    found: dict[str, Any] = json.loads(ran.out)
    return found


def cells(ran: Ran, label: str) -> list[str]:
    """What stands in the line that begins with ``label``, column by column."""
    (line,) = [line.strip() for line in ran.out.splitlines() if line.strip().startswith(label)]
    return [cell.strip() for cell in line.removeprefix(label).split("   ") if cell.strip()]
