"""Units as OCI containers: runc runs them, conmon watches each so that it and its exit code outlive the agent.

Knows containers by id and bundle only; when to start what is not decided here. Containers of one agent have a runc
root of their own, inside the agent's state directory.
"""

import asyncio
import json
import os
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nodeagent.commands import CommandFailed, clean_environment, run
from nodeagent.processes import ProcessHandle, find_by_arguments
from nodeagent.state_dir import StateDir

CREATE_TIMEOUT_S = 60.0
_FOR_GOOD = ("executable file not found", "permission denied", "no such file or directory", "not a directory")


class StartError(Exception):
    """The container could not be made. ``final``: nor would it next time, as the unit itself is wrong."""

    def __init__(self, message: str, final: bool) -> None:
        super().__init__(message)
        self.final = final


@dataclass(frozen=True, slots=True)
class Exit:
    """How a container ended. ``code`` is None when nobody was left to see it."""

    code: int | None
    oom: bool = False


class Container:
    """A container that runs, or has just ended."""

    def __init__(self, runtime: "Runtime", cid: str, bundle: Path) -> None:
        self.cid = cid
        self.bundle = bundle
        self._runtime = runtime
        self._monitor: ProcessHandle | None = None
        self._init: ProcessHandle | None = None

    def attach(self, monitor_pid: int, init_pid: int) -> None:
        """``monitor_pid`` is conmon's, 0 if it is dead; ``init_pid`` that of the unit's process."""
        self._monitor = ProcessHandle.open(monitor_pid, self.cid) if monitor_pid else None
        self._init = ProcessHandle.open(init_pid) if init_pid else None

    async def wait(self) -> Exit:
        """Returns when the unit's process, and with it its PID namespace, has ended. May be asked again."""
        if self._monitor is not None:
            await self._monitor.wait()
        # Nothing is lost when conmon was killed: the unit itself is awaited, only its exit code stays unknown.
        if self._init is not None and self._runtime.exit_of(self.cid, self.bundle) is None:
            await self._init.wait()
        return self._runtime.exit_of(self.cid, self.bundle) or Exit(None)

    async def signal(self, name: str) -> None:
        """Signals the unit's process. One that is gone is no error."""
        await self._runtime.kill(self.cid, name)

    def close(self) -> None:
        for handle in (self._monitor, self._init):
            if handle is not None:
                handle.close()


class Runtime:
    """Drives runc and conmon for one state directory."""

    def __init__(self, dirs: StateDir) -> None:
        self._dirs = dirs

    async def start(self, cid: str, bundle: Path, log: Path) -> Container:
        """Runs the bundle as container ``cid``.

        Raises:
            StartError: see there; nothing is left behind then.
        """
        try:
            pid = await self._create(cid, bundle, log)
            await self._runc("start", cid)
        except CommandFailed as error:
            await self.delete(cid)
            message = _reason(str(error))
            # Only what concerns the unit's own program: the rest may be a passing trouble of the node.
            final = message.startswith("exec: ") and any(sign in message for sign in _FOR_GOOD)
            raise StartError(message, final) from None
        return self._container(cid, bundle, pid)

    async def _create(self, cid: str, bundle: Path, log: Path) -> int:
        """conmon tells the outcome of ``runc create`` through a pipe: the pid, or -1 and the message."""
        reader, writer = os.pipe()
        argv = ["conmon", "--api-version", "1", "-c", cid, "-u", cid, "-n", cid, "-r", shutil.which("runc") or "runc",
                "-b", str(bundle), "-p", str(bundle / "pid"), "-P", str(bundle / "conmon.pid"),
                "--exit-dir", str(self._dirs.exits), "--persist-dir", str(bundle), "-l", f"k8s-file:{log}",
                "--full-attach", "--runtime-arg", "--root", "--runtime-arg", str(self._dirs.runc)]  # fmt: skip
        try:
            process = await asyncio.create_subprocess_exec(
                *argv,
                cwd="/",
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
                env=clean_environment() | {"_OCI_SYNCPIPE": str(writer)},
                pass_fds=[writer],
                start_new_session=True,
            )
        except FileNotFoundError:
            os.close(reader)
            raise CommandFailed("conmon is not installed on the node") from None
        finally:
            os.close(writer)
        line = await _read_line(reader)
        await process.wait()
        answer: dict[str, Any] = json.loads(line) if line else {"data": -1, "message": "conmon died"}
        if answer["data"] <= 0:
            raise CommandFailed(answer.get("message") or "runc gave no reason")
        return int(answer["data"])

    async def find(self, cid: str, bundle: Path) -> Container | Exit | None:
        """What became of ``cid``, which an earlier agent meant to start: it runs, it has ended, or (None) it never
        began."""
        monitors = find_by_arguments(cid, str(bundle))
        state = await self._state(cid)
        deadline = asyncio.get_running_loop().time() + CREATE_TIMEOUT_S
        while state is None and monitors and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.05)  # its conmon is just creating it
            state, monitors = await self._state(cid), find_by_arguments(cid, str(bundle))
        ended = self.exit_of(cid, bundle)
        if ended is not None:
            return ended
        status = state["status"] if state else ""
        if state and status == "created" and monitors:
            await self._runc("start", cid)
            status = "running"
        if state and status == "running":
            return self._container(cid, bundle, int(state["pid"]))
        if state and status == "stopped" and monitors:
            return self._container(cid, bundle, 0)
        return Exit(None) if status == "stopped" else None

    def exit_of(self, cid: str, bundle: Path) -> Exit | None:
        """The exit that conmon wrote down; None if it has not."""
        try:
            text = (self._dirs.exits / cid).read_text().strip()
        except FileNotFoundError:
            return None
        return Exit(int(text) if text.lstrip("-").isdigit() else None, (bundle / "oom").exists())

    async def kill(self, cid: str, name: str) -> None:
        try:
            await self._runc("kill", cid, name)
        except CommandFailed as error:
            if not any(sign in str(error) for sign in ("not running", "does not exist", "already finished")):
                raise

    async def delete(self, cid: str) -> None:
        """Kills what is left of the container and forgets it. No error when there is none."""
        await self._runc("delete", "--force", cid)
        for pid in find_by_arguments(cid, str(self._dirs.runc)):
            handle = ProcessHandle.open(pid, cid)
            if handle is not None:
                await _end_monitor(handle)
        (self._dirs.exits / cid).unlink(missing_ok=True)

    async def list(self) -> list[str]:
        """Ids of all containers of this state directory."""
        found = json.loads(await self._runc("list", "--format", "json") or b"null")
        return [item["id"] for item in found or ()]

    async def _state(self, cid: str) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = json.loads(await self._runc("state", cid))
        except CommandFailed as error:
            if "does not exist" in str(error):
                return None
            raise
        return found

    def _container(self, cid: str, bundle: Path, init_pid: int) -> Container:
        container = Container(self, cid, bundle)
        container.attach(next(iter(find_by_arguments(cid, str(bundle))), 0), init_pid)
        return container

    async def _runc(self, *args: str) -> bytes:
        return await run("runc", "--root", str(self._dirs.runc), *args)


async def _end_monitor(handle: ProcessHandle) -> None:
    """conmon ends by itself once its container is gone; it is only helped along when it does not."""
    try:
        async with asyncio.timeout(5.0):
            await handle.wait()
    except TimeoutError:
        signal.pidfd_send_signal(handle.descriptor, signal.SIGKILL)
        await handle.wait()
    finally:
        handle.close()


async def _read_line(descriptor: int) -> bytes:
    loop = asyncio.get_running_loop()
    stream = asyncio.StreamReader()
    with os.fdopen(descriptor, "rb", 0) as file:
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stream), file)
        try:
            async with asyncio.timeout(CREATE_TIMEOUT_S):
                return await stream.readline()
        except TimeoutError:
            raise CommandFailed(f"runc create took longer than {CREATE_TIMEOUT_S:g} s") from None
        finally:
            transport.close()


def _reason(text: str) -> str:
    """The last message of runc's log lines, unquoted."""
    lines = [line for line in text.strip().splitlines() if "msg=" in line]
    if not lines:
        return text.strip()
    message = lines[-1].partition('msg="')[2].rstrip('"').replace('\\"', '"').replace('\\"', '"')
    for prefix in ("runc create failed: ", "unable to start container process: "):
        message = message.removeprefix(prefix)
    return message
