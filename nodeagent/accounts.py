"""Users and groups as an image's own /etc/passwd and /etc/group name them. Reads files below the image only."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Account:
    """As whom a unit runs. ``groups`` are the supplementary ones."""

    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    home: str = "/"


def resolve_user(rootfs: Path, user: str) -> Account:
    """The account for an image's ``User``: ``name``, ``uid``, ``name:group`` or ``uid:gid``; empty is root.

    Raises:
        ValueError: a name that the image does not know.
    """
    name, colon, group = (user or "0").partition(":")
    entry = next((row for row in _rows(rootfs, "passwd", 6) if row[0] == name or row[2] == name), None)
    if entry is not None:
        uid, gid, home, login = int(entry[2]), int(entry[3]), entry[5] or "/", entry[0]
    elif name.isdigit():
        uid, gid, home, login = int(name), 0, "/", ""
    else:
        raise ValueError(f"user {name!r} is not in the image's /etc/passwd")
    if colon:
        return Account(uid, _group(rootfs, group), (), home)
    members = tuple(int(row[2]) for row in _rows(rootfs, "group", 4) if login and login in row[3].split(","))
    return Account(uid, gid, members, home)


def _group(rootfs: Path, group: str) -> int:
    for row in _rows(rootfs, "group", 3):
        if group in (row[0], row[2]):
            return int(row[2])
    if group.isdigit():
        return int(group)
    raise ValueError(f"group {group!r} is not in the image's /etc/group")


def _rows(rootfs: Path, name: str, columns: int) -> Iterator[list[str]]:
    path = rootfs / "etc" / name
    # A link in an image may point anywhere on the node; such a file is nobody's account list.
    if path.resolve() != rootfs.resolve() / "etc" / name or not path.is_file():
        return
    for line in path.read_text(errors="replace").splitlines():
        row = line.split(":")
        if len(row) >= columns and row[2].isdigit() and (columns < 6 or row[3].isdigit()):
            yield row
