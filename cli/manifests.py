"""Finds and reads the manifests that ``-f`` names: files, folders, standard input.

All errors of all files are reported together, so that a user mends them in one go; nothing is sent unless all are good.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cli.reporting import CommandFailed

if TYPE_CHECKING:
    from milpa_ray.api.meta import Resource

SUFFIXES = frozenset({".yml", ".yaml", ".json"})
STDIN = "-"


def load(paths: Sequence[str], *, recursive: bool = False) -> "list[Resource]":
    """The objects of all manifests, in order.

    Raises:
        CommandFailed: a file cannot be read, manifests are wrong (all errors of all files), or there is no object.
    """
    from milpa_ray.api.manifest import ManifestErrors, load_manifests

    objects: list[Resource] = []
    problems: list[str] = []
    for source, text in _texts(paths, recursive=recursive, problems=problems):
        try:
            objects += load_manifests(text, source)
        except ManifestErrors as bad:
            problems += str(bad).splitlines()
    if problems:
        raise CommandFailed(*problems)
    if not objects:
        raise CommandFailed(f"no objects in {', '.join(paths)}")
    return objects


def _texts(paths: Sequence[str], *, recursive: bool, problems: list[str]) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for path in paths:
        try:
            if path == STDIN:
                found.append(("<stdin>", sys.stdin.buffer.read().decode()))
            elif Path(path).is_dir():
                found += [(str(file), file.read_text("utf-8")) for file in _files(Path(path), recursive=recursive)]
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
