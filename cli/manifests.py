"""Finds and reads the manifests that ``-f`` names: files, folders, standard input.

All errors of all files are reported together, so that a user mends them in one go; nothing is sent unless all are good.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from cli.reporting import CommandFailed

if TYPE_CHECKING:
    from milpa_ray.api.meta import ObjectReference, Resource

T = TypeVar("T")

SUFFIXES = frozenset({".yml", ".yaml", ".json"})
STDIN = "-"


def load_objects(paths: Sequence[str], *, recursive: bool = False) -> "list[Resource]":
    """The objects of all manifests, in order.

    Raises:
        CommandFailed: a file cannot be read, or manifests are wrong: all errors of all files.
    """
    from milpa_ray.api.manifest import load_manifests

    return _load(paths, load_manifests, recursive=recursive)


def load_references(paths: Sequence[str], *, recursive: bool = False) -> "list[ObjectReference]":
    """Kind and name of every object in the manifests; nothing else in them is checked. Raises as ``load_objects``."""
    from milpa_ray.api.manifest import load_references as read

    return _load(paths, read, recursive=recursive)


def _load(paths: Sequence[str], read: Callable[[str, str], list[T]], *, recursive: bool) -> list[T]:
    from milpa_ray.api.manifest import ManifestErrors

    found: list[T] = []
    problems: list[str] = []
    for source, text in _texts(paths, recursive=recursive, problems=problems):
        try:
            found += read(text, source)
        except ManifestErrors as bad:
            problems += map(str, bad.errors)
    if problems:
        raise CommandFailed(*problems)
    return found


def _texts(paths: Sequence[str], *, recursive: bool, problems: list[str]) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for path in paths:
        try:
            if path == STDIN:
                found.append(("<stdin>", sys.stdin.buffer.read().decode()))
            elif Path(path).is_dir():
                files = _files(Path(path), recursive=recursive)
                found += [(str(file), file.read_text("utf-8")) for file in files]
                if not files:
                    problems.append(f"{path}: the folder has no {', '.join(sorted(SUFFIXES))} file")
            else:
                found.append((path, Path(path).read_text("utf-8")))
        except UnicodeDecodeError as bad:
            problems.append(f"{path}: not UTF-8 text ({bad.reason} at byte {bad.start}); save it as UTF-8")
        except OSError as bad:
            problems.append(f"{bad.filename or path}: {bad.strerror or bad}")
    return found


def _files(folder: Path, *, recursive: bool) -> list[Path]:
    files = folder.rglob("*") if recursive else folder.iterdir()
    return sorted(file for file in files if file.suffix in SUFFIXES and file.is_file())
