"""Runs the real ``milpactl``: as a process of its own, or in this one where the speed matters more."""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

COMMAND = (sys.executable, "-m", "cli.milpactl")
HIDDEN = ("MILPA_ENDPOINTS", "MILPA_CERT_DIR", "MILPA_HOME", "MILPA_DEBUG")


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
