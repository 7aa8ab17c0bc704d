"""Lets the root file system fill its disk, once the cloud has made that as large as the pod asks: first the partition,
then the file system.

Only on machines that are the pod's own, such as an EC2 instance: there the agent is started with ``--grow-root``. A
local instance has no disk of its own, and nothing here touches the machine's. Growing is idempotent, online, and never
shrinks anything.
"""

import asyncio
import logging
from dataclasses import dataclass
from pathlib import Path

from nodeagent.commands import CommandFailed, run

log = logging.getLogger("nodeagent.root_volume")

BLOCK_DEVICES = Path("/sys/class/block")
SECTOR = 512
SLACK = 4 * 1024 * 1024
"""Bytes at a disk's end that belong to no partition: alignment, and the second partition table."""
WAIT_S = 60.0
"""How long the disk may take to become as large as the cloud says: seconds on EC2."""
POLL_S = 1.0
TOOL_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Disk:
    """Where a file system lies. ``partition`` is its number on the disk; 0: it fills the disk."""

    device: str
    kind: str
    disk: str
    partition: int


class RootVolume:
    """The file system mounted at ``mount``."""

    def __init__(self, mount: str = "/", wait_s: float = WAIT_S) -> None:
        self._mount = mount
        self._wait_s = wait_s

    async def make_room(self, size: int) -> None:
        """Has the file system fill its disk, which is to have ``size`` bytes: waited for, but not for ever.

        Raises:
            CommandFailed: the disk did not grow in time, or a tool failed; the file system is as it was, and usable.
        """
        place = await _find_disk(self._mount)
        try:
            async with asyncio.timeout(self._wait_s):
                # Nothing tells when a disk has grown, hence the polling.
                while _disk_bytes(place.disk) < size:  # noqa: ASYNC110
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            has = _disk_bytes(place.disk)
            raise CommandFailed(f"disk {place.disk} has {has} bytes after {self._wait_s:g} s, not {size}") from None
        await _fill(place, self._mount)


async def _find_disk(mount: str) -> Disk:
    """Raises ``CommandFailed`` when what is mounted there is on no disk."""
    told = await run("findmnt", "--noheadings", "--output", "SOURCE,FSTYPE", "--mountpoint", mount)
    source, _, kind = told.decode().strip().partition(" ")
    if not source.startswith("/dev/") or "[" in source:  # such as a folder of another file system: /dev/vda1[/folder]
        raise CommandFailed(f"{mount} is on no disk of its own, but on {source or 'nothing'}")
    return _disk_of(source, kind.strip())


def _disk_of(source: str, kind: str) -> Disk:
    name = Path(source).resolve().name
    if not (number := _sysfs(name, "partition")):
        return Disk(f"/dev/{name}", kind, name, 0)
    disk = (BLOCK_DEVICES / name).resolve().parent.name
    return Disk(f"/dev/{name}", kind, disk, int(number))


async def _fill(place: Disk, mount: str) -> None:
    if place.partition and _unused(place) > SLACK:
        await run("growpart", f"/dev/{place.disk}", str(place.partition), timeout_s=TOOL_TIMEOUT_S)
    match place.kind:
        case "ext2" | "ext3" | "ext4":
            await run("resize2fs", place.device, timeout_s=TOOL_TIMEOUT_S)
        case "xfs":
            await run("xfs_growfs", mount, timeout_s=TOOL_TIMEOUT_S)
        case _:
            raise CommandFailed(f"{mount} is {place.kind}: only ext4 and xfs can be grown")
    log.info("%s fills its disk %s", mount, place.disk)


def _disk_bytes(disk: str) -> int:
    return int(_sysfs(disk, "size") or 0) * SECTOR


def _unused(place: Disk) -> int:
    """Bytes of the disk behind the partition."""
    name = Path(place.device).name
    end = int(_sysfs(name, "start") or 0) + int(_sysfs(name, "size") or 0)
    return _disk_bytes(place.disk) - end * SECTOR


def _sysfs(name: str, attribute: str) -> str:
    try:
        return (BLOCK_DEVICES / name / attribute).read_text().strip()
    except OSError:
        return ""
