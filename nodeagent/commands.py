"""Running the tools that do the work (skopeo, umoci, runc, mount): bounded in time and output, never by a shell."""

import asyncio
import os
from collections.abc import Sequence

MAX_OUTPUT = 4 * 1024 * 1024
"""Bytes of a tool's standard output that are kept (an image manifest is at most 4 MiB)."""
_MAX_ERROR = 16 * 1024


class CommandFailed(Exception):
    """The tool is missing, ended with a code other than 0, or took too long. ``str()`` is its own error text."""


async def run(*argv: str, timeout_s: float = 30.0) -> bytes:
    """Standard output of the command. Killed after ``timeout_s`` seconds, and when the caller is cancelled.

    Raises:
        CommandFailed: see there.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=MAX_OUTPUT,
            env=clean_environment(),
            start_new_session=True,
        )
    except FileNotFoundError:
        raise CommandFailed(f"{argv[0]} is not installed on the node") from None
    try:
        async with asyncio.timeout(timeout_s):
            out, err = await process.communicate()
    except TimeoutError:
        raise CommandFailed(f"{_name(argv)} took longer than {timeout_s:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        text = err[-_MAX_ERROR:].decode(errors="replace").strip()
        raise CommandFailed(text or f"{_name(argv)} ended with code {process.returncode}")
    return out[:MAX_OUTPUT]


def clean_environment() -> dict[str, str]:
    """What tools get of our environment: enough to find programs, proxies and CA certificates."""
    wanted = ("PATH", "HOME", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
    found = {name: os.environ[name] for name in (*wanted, *(n.lower() for n in wanted[-3:])) if name in os.environ}
    return {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"} | found


def _name(argv: Sequence[str]) -> str:
    return " ".join(argv[:2])
