"""Serving, tailing, following and rotating log files."""

import asyncio
from pathlib import Path

import pytest

from nodeagent import unit_logs
from nodeagent.unit_logs import Followers, decode_k8s, decode_plain, end_offset, follow, rotate, rotated, tail


def k8s(*texts: str, flag: str = "F") -> bytes:
    return b"".join(f"2026-01-01T00:00:00.000000001+00:00 stdout {flag} {text}\n".encode() for text in texts)


def test_decoding_gives_what_the_unit_wrote() -> None:
    assert decode_k8s(k8s("a  b ")) == b"a  b \n"
    assert decode_k8s(k8s("")) == b"\n"
    assert decode_k8s(k8s("half", flag="P")) == b"half"


@pytest.mark.parametrize("chunk", [7, 64, 65_536])
@pytest.mark.parametrize(
    ("lines", "limit", "wanted"), [(0, 0, "all"), (3, 0, "l7 l8 l9"), (99, 0, "all"), (3, 5, "8 l9"), (0, 4, " l9")]
)
def test_tail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, lines: int, limit: int, wanted: str) -> None:
    monkeypatch.setattr(unit_logs, "CHUNK", chunk)
    path = tmp_path / "a.log"
    rotated(path).write_bytes(k8s(*(f"l{n}" for n in range(5))))
    path.write_bytes(k8s(*(f"l{n}" for n in range(5, 10))) + b"2026-01-01T00:00:00.0")
    found = b"".join(tail(path, decode_k8s, lines, limit)).decode().replace("\n", " ")
    assert found.strip(" ") == (" ".join(f"l{n}" for n in range(10)) if wanted == "all" else wanted.strip())
    assert end_offset(path) == len(k8s(*(f"l{n}" for n in range(5, 10))))


def test_partial_lines_count_as_one(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(k8s("one") + k8s("tw", flag="P") + k8s("o") + k8s("three"))
    assert b"".join(tail(path, decode_k8s, 2, 0)) == b"two\nthree\n"
    assert tail(tmp_path / "none.log", decode_plain, 5, 5) == []


async def test_follow_over_a_rotation_to_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unit_logs, "FOLLOW_INTERVAL_S", 0.01)
    monkeypatch.setattr(unit_logs, "ROTATE_BYTES", 10)
    path = tmp_path / "a.log"
    over = False
    got: list[bytes] = []

    async def read() -> None:
        async for data in follow(path, 0, decode_k8s, lambda: over):
            got.append(data)  # noqa: PERF401 - looked at while it grows

    reader = asyncio.create_task(read())
    await asyncio.sleep(0.03)
    with path.open("ab", 0) as old:
        old.write(k8s("one") + k8s("two")[:30])
        await asyncio.sleep(0.03)
        assert rotate(path, None)
        old.write(k8s("two")[30:])
    path.write_bytes(k8s("three"))
    await asyncio.sleep(0.05)
    assert b"".join(got) == b"one\ntwo\nthree\n"
    assert not reader.done()
    over = True
    await asyncio.wait_for(reader, 5)


def test_small_files_are_not_rotated(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    assert not rotate(path, None)
    path.write_bytes(b"x" * 100)
    assert not rotate(path, None)
    assert not rotated(path).exists()


async def test_the_wait_for_followers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unit_logs, "FOLLOWERS_WAIT_S", 0.05)
    followers = Followers()
    await followers.gone("a")
    with followers.following("a"), followers.following("a"):
        await asyncio.wait_for(followers.gone("b"), 0.02)
        await followers.gone("a")  # they do not read; nobody waits for ever
    with followers.following("a"):
        waiting = asyncio.create_task(followers.gone("a"))
        await asyncio.sleep(0)
        assert not waiting.done()
    await asyncio.wait_for(waiting, 0.02)
