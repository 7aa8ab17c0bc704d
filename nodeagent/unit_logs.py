"""Reading and rotating log files. Units' logs are in conmon's ``k8s-file`` format (time, stream, P or F, text); they
are served as the plain bytes that the unit wrote. The agent's own log is plain text."""

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

ROTATE_BYTES = 10 * 1024 * 1024
"""A log file above this is renamed to ``.1``, replacing the one before it."""
CHUNK = 64 * 1024
FOLLOW_INTERVAL_S = 0.2
FOLLOWERS_WAIT_S = 1.0
"""How long a log's end is kept back for those who follow it: much more than a follower needs that reads at all."""
Decode = Callable[[bytes], bytes]


def decode_k8s(line: bytes) -> bytes:
    """What the unit wrote: the text, with its line feed unless the line is only part of one (P)."""
    parts = line.rstrip(b"\n").split(b" ", 3)
    if len(parts) < 4:
        return line
    return parts[3] + (b"" if parts[2] == b"P" else b"\n")


def decode_plain(line: bytes) -> bytes:
    return line


def rotated(path: Path) -> Path:
    return path.with_name(f"{path.name}.1")


def rotate(path: Path, control_pipe: Path | None) -> bool:
    """Renames ``path`` when it is too big and has conmon, if it runs, open a new one. Whether it was renamed."""
    try:
        if path.stat().st_size <= ROTATE_BYTES:
            return False
    except FileNotFoundError:
        return False
    path.rename(rotated(path))
    if control_pipe is not None:
        try:
            descriptor = os.open(control_pipe, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            return True  # nobody reads it: the unit has just ended
        try:
            os.write(descriptor, b"2 0 0\n")
        finally:
            os.close(descriptor)
    return True


def tail(path: Path, decode: Decode, lines: int, limit_bytes: int) -> list[bytes]:
    """The last ``lines`` lines, of them the last ``limit_bytes`` bytes (0: all), oldest first."""
    found: list[bytes] = []
    size = 0
    count = 0
    for raw in _lines_backwards(path):
        text = decode(raw)
        if text.endswith(b"\n"):
            count += 1
        if lines and count > lines:
            break
        found.append(text)
        size += len(text)
        if limit_bytes and size >= limit_bytes:
            found[-1] = found[-1][size - limit_bytes :]
            break
    found.reverse()
    return found


def read(path: Path, decode: Decode, lines: int, limit_bytes: int) -> Iterator[bytes]:
    """The log up to now in pieces of about ``CHUNK`` bytes; ``lines`` and ``limit_bytes`` as for ``tail``."""
    piece = bytearray()
    for text in tail(path, decode, lines, limit_bytes) if lines or limit_bytes else _whole(path, decode):
        piece += text
        if len(piece) >= CHUNK:
            yield bytes(piece)
            piece.clear()
    if piece:
        yield bytes(piece)


def _whole(path: Path, decode: Decode) -> Iterator[bytes]:
    """All there is, without holding it: two files of ``ROTATE_BYTES``."""
    end = end_offset(path)
    for name, size in ((rotated(path), None), (path, end)):
        file = _open(name)
        if file is not None:
            with file:
                while size is None or file.tell() < size:
                    line = file.readline()
                    if not line:
                        break
                    yield decode(line)


async def follow(path: Path, offset: int, decode: Decode, ended: Callable[[], bool]) -> AsyncIterator[bytes]:
    """What is written from ``offset`` on, over rotations, until ``ended()`` and everything is read."""
    while (file := _open(path)) is None:
        if ended():
            return
        await asyncio.sleep(FOLLOW_INTERVAL_S)
    try:
        file.seek(offset)
        rest = b""
        while True:
            over = ended()  # asked before reading, so that what came before the end is read
            data = file.read(CHUNK)
            if data:
                *whole, rest = (rest + data).split(b"\n")
                text = b"".join(decode(line + b"\n") for line in whole)
                if text:
                    yield text
            elif _is_other_file(path, file.fileno()):
                fresh = _open(path)
                if fresh is not None:
                    file.close()
                    file, rest = fresh, b""
            elif over:
                return
            else:
                await asyncio.sleep(FOLLOW_INTERVAL_S)
    finally:
        file.close()


class Followers:
    """Who follows which unit's log at the moment."""

    def __init__(self) -> None:
        self._count: Counter[str] = Counter()
        self._left = asyncio.Event()

    @contextmanager
    def following(self, unit: str) -> Iterator[None]:
        """One more follows, inside."""
        self._count[unit] += 1
        try:
            yield
        finally:
            self._count[unit] -= 1
            self._left.set()

    async def gone(self, unit: str) -> None:
        """Waits until nobody follows the unit's log, for ``FOLLOWERS_WAIT_S`` at most."""
        try:
            async with asyncio.timeout(FOLLOWERS_WAIT_S):
                while self._count[unit]:
                    self._left.clear()
                    await self._left.wait()
        except TimeoutError:
            return


def _open(path: Path) -> BinaryIO | None:
    try:
        return path.open("rb")
    except FileNotFoundError:
        return None


def _is_other_file(path: Path, descriptor: int) -> bool:
    try:
        return path.stat().st_ino != os.fstat(descriptor).st_ino
    except FileNotFoundError:
        return False  # renamed just now, the new one is about to come


def _lines_backwards(path: Path) -> Iterator[bytes]:
    """Lines of the file, then those of its rotated predecessor, the last first; a half-written one is left out."""
    for name in (path, rotated(path)):
        try:
            file = name.open("rb")
        except FileNotFoundError:
            continue
        with file:
            position = file.seek(0, os.SEEK_END)
            rest = b""
            first = True
            while position:
                step = min(CHUNK, position)
                position -= step
                file.seek(position)
                head, *whole = (file.read(step) + rest).split(b"\n")
                if first and whole:
                    whole.pop()
                    first = False
                yield from (line + b"\n" for line in reversed(whole))
                rest = head
            if rest and not first:
                yield rest + b"\n"


def end_offset(path: Path) -> int:
    """Where the last whole line ends: what ``tail`` has read up to."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            while size:
                step = min(CHUNK, size)
                file.seek(size - step)
                cut = file.read(step).rfind(b"\n")
                if cut >= 0:
                    return size - step + cut + 1
                size -= step
    except FileNotFoundError:
        pass
    return 0
