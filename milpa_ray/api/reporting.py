"""Errors of a file that a user wrote, each with its place: what manifests and settings raise."""

from collections.abc import Iterable
from dataclasses import dataclass

from milpa_ray.api.schema import Path, path_text
from milpa_ray.errors import Invalid

MAX_SHOWN = 50
"""Errors that ``str(LocatedErrors)`` shows; ``errors`` has all."""


@dataclass(frozen=True, slots=True)
class LocatedError:
    """One error. ``line`` and ``document`` count from 1; ``line`` is 0 when there is no text to point at. ``subject``
    names the object (``Pod "web"``) as far as it is known."""

    source: str
    line: int
    document: int
    path: Path
    reason: str
    subject: str = ""

    @property
    def field(self) -> str:
        """The field path as text, such as ``spec.units[1].image``."""
        return path_text(self.path)

    def __str__(self) -> str:
        place = f"{self.source}:{self.line}" if self.line else self.source
        if self.document > 1:
            place += f" (document {self.document})"
        return ": ".join(part for part in (place, self.subject, self.field, self.reason) if part)


class LocatedErrors(Invalid):
    """All errors of one file. ``str()`` has one line for each."""

    def __init__(self, errors: Iterable[LocatedError]) -> None:
        self.errors = tuple(sorted(errors, key=lambda error: (error.document, error.line)))
        lines = [str(error) for error in self.errors[:MAX_SHOWN]]
        if len(self.errors) > MAX_SHOWN:
            lines.append(f"... and {len(self.errors) - MAX_SHOWN} more errors")
        super().__init__("\n".join(lines))
