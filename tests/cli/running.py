"""Runs the real ``milpactl``: as a process of its own, or in this one where that shows as much and saves its start."""

import gc
import io
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from unittest.mock import patch

COMMAND = (sys.executable, "-m", "cli.milpactl")
HIDDEN = ("MILPA_ENDPOINTS", "MILPA_CERT_DIR", "MILPA_HOME", "MILPA_REGION", "MILPA_DEBUG")


@dataclass(frozen=True, slots=True)
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str


def environment(extra: dict[str, str] | None = None) -> dict[str, str]:
    """This process's environment without what would steer ``milpactl``."""
    kept = {name: value for name, value in os.environ.items() if name not in HIDDEN}
    return kept | {"COLUMNS": "100"} | (extra or {})


def milpactl(*args: str, stdin: str = "", env: dict[str, str] | None = None, cwd: str | None = None) -> Ran:
    """Runs it to its end, which must come within half a minute."""
    done = subprocess.run(
        [*COMMAND, *args],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=30,
        env=environment(env),
        cwd=cwd,
        check=False,
    )
    return Ran(done.returncode, done.stdout, done.stderr)


def start(args: Sequence[str], env: dict[str, str] | None = None) -> "subprocess.Popen[str]":
    """Starts it, for what does not end by itself. The caller ends it."""
    return subprocess.Popen(
        [*COMMAND, *args],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(env),
    )


def milpactl_here(*args: str, stdin: str = "", env: dict[str, str] | None = None) -> Ran:
    """Runs its ``main`` in this process, from the command line to the exit code."""
    from cli.milpactl import main

    thresholds = gc.get_threshold()
    out, err, end = _stream(), _stream(), SystemExit(0)
    with (
        patch.object(sys, "argv", ["milpactl", *args]),
        patch.object(sys, "stdin", _stream(stdin)),
        patch.dict(os.environ, environment(env), clear=True),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as raised:
            end = raised
        finally:
            gc.set_threshold(*thresholds)
    return Ran(int(end.code or 0), _written(out), _written(err))


def _stream(content: str = "") -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(content.encode()), encoding="utf-8")


def _written(stream: io.TextIOWrapper) -> str:
    stream.flush()
    found = stream.buffer
    assert isinstance(found, io.BytesIO)
    return found.getvalue().decode()
