"""How ``milpa doctor`` and ``milpa status`` show what they found."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from cli.output.documents import write
from cli.output.text import table

if TYPE_CHECKING:
    from shards.catalogs import Entry
    from shards.doctor import Check
    from shards.foreground import Part


def show_checks(checks: Sequence[Check], output: str) -> None:
    """A table with the remedies below it, or JSON."""
    if output == "json":
        write(json.dumps([asdict(check) for check in checks], indent=2) + "\n")
        return
    rows = [["", "CHECK", "FOUND"]]
    for check in checks:
        mark = "ok" if check.ok else "FAIL" if check.essential else "warn"
        first, *others = check.detail.splitlines() or [""]
        rows.append([mark, check.name, first])
        rows += [["", "", line] for line in others]
    write(table(rows))
    remedies = [f"{check.name}: {check.remedy}" for check in checks if not check.ok and check.remedy]
    if remedies:
        write("\nWhat helps:\n" + "".join(f"  {remedy}\n" for remedy in remedies))


def show_status(parts: Sequence[Part], output: str) -> None:
    """A table, or JSON."""
    if output == "json":
        write(json.dumps([asdict(part) for part in parts], indent=2) + "\n")
        return
    if not parts:
        return
    rows = [["NAME", "OK", "PROCESS", "STATE"]]
    rows += [[part.name, "yes" if part.ok else "NO", str(part.pid or ""), part.detail] for part in parts]
    write(table(rows))


def show_catalogs(entries: Sequence[Entry], output: str) -> None:
    """A table, or a list as JSON or YAML, with names as ``milpactl explain`` has them."""
    if output:
        from cli.output import documents

        found = [_catalog(entry) for entry in entries]
        write(documents.as_json(found) if output == "json" else documents.as_yaml(found))
        return
    rows = [["REGION", "TYPES", "ZONES", "SPOT", "PRICES OF", "AGE", "FROM"]]
    rows += [
        [
            entry.region,
            str(entry.types),
            str(entry.zones or "?"),
            str(entry.spot),
            entry.prices_as_of,
            f"{entry.age_days}d{' (old)' if entry.old else ''}",
            entry.file or entry.source,
        ]
        for entry in entries
    ]
    write(table(rows))


def _catalog(entry: Entry) -> dict[str, object]:
    return {
        "region": entry.region,
        "types": entry.types,
        "zones": entry.zones,
        "spot": entry.spot,
        "source": entry.source,
        "pricesAsOf": entry.prices_as_of,
        "pricesAgeDays": entry.age_days,
        "pricesOld": entry.old,
        "file": entry.file,
        "problem": entry.problem,
    }
