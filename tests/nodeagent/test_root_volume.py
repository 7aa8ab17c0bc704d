"""Growing a file system on a real disk: a loop device over a file that is made larger, as the cloud makes a volume."""

import asyncio
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from nodeagent import root_volume
from nodeagent.commands import CommandFailed
from nodeagent.root_volume import SECTOR, RootVolume
from tests.nodeagent.agents import OWNER, log_of, pod, report_when, running_agent, states, unit

pytestmark = pytest.mark.integration

MIB = 1024 * 1024
GIB = 1024 * MIB


def sh(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout.strip()


@dataclass
class LoopDisk:
    """A disk that is mounted at ``mount``."""

    file: Path
    device: str
    mount: Path

    def grow(self, mib: int) -> None:
        """What ModifyVolume does."""
        sh("truncate", "--size", f"{mib}M", str(self.file))
        sh("losetup", "--set-capacity", self.device)

    def room(self) -> int:
        """MiB of the file system."""
        return shutil.disk_usage(self.mount).total // MIB


@contextmanager
def loop_disk(folder: Path, mib: int) -> Iterator[LoopDisk]:
    disk = LoopDisk(folder / "disk", "", folder / "mount")
    disk.mount.mkdir()
    sh("truncate", "--size", f"{mib}M", str(disk.file))
    disk.device = sh("losetup", "--find", "--show", str(disk.file))
    try:
        sh("mkfs.ext4", "-q", disk.device)
        sh("mount", disk.device, str(disk.mount))
        yield disk
    finally:
        subprocess.run(["umount", str(disk.mount)], check=False, capture_output=True)
        sh("losetup", "--detach", disk.device)


def may_resize() -> bool:
    """Whether this process has CAP_SYS_RESOURCE, without which the kernel grows no mounted file system."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff:"))
    return bool(int(line.split()[1], 16) >> 24 & 1)


@pytest.mark.skipif(not may_resize(), reason="needs CAP_SYS_RESOURCE, which containers often lack")
async def test_the_file_system_fills_a_disk_that_has_grown(tmp_path: Path) -> None:
    with loop_disk(tmp_path, 64) as disk:
        (disk.mount / "kept").write_text("data")
        disk.grow(160)
        assert disk.room() < 64
        await RootVolume(str(disk.mount)).make_room(150 * MIB)
        assert disk.room() > 130
        await RootVolume(str(disk.mount)).make_room(0)  # nothing left to do
        assert (disk.mount / "kept").read_text() == "data"


async def test_a_disk_that_does_not_grow_in_time_is_told(tmp_path: Path) -> None:
    with loop_disk(tmp_path, 64) as disk:
        with pytest.raises(CommandFailed, match=f"has {64 * MIB} bytes after 0 s, not {150 * MIB}"):
            await RootVolume(str(disk.mount), wait_s=0).make_room(150 * MIB)
        assert disk.room() < 64


@dataclass
class Tools:
    """Tools that only write down how they were called, and a kernel's tables of block devices, for what this machine
    has no disks for."""

    folder: Path
    blocks: Path

    def tool(self, name: str, answer: str = "") -> None:
        path = self.folder / name
        path.write_text(f"#!/bin/sh\necho {name} \"$@\" >>{self.folder}/calls\necho '{answer}'\n")
        path.chmod(0o755)

    def disk(self, name: str, gib: int, *, partition_gib: int = 0, partition: str = "") -> None:
        """A disk, and on it one partition from its first MiB on."""
        disk = self.folder / "devices" / name
        disk.mkdir(parents=True, exist_ok=True)
        (disk / "size").write_text(f"{gib * GIB // SECTOR}\n")
        places = {name: disk}
        if partition:
            places[partition] = disk / partition
            places[partition].mkdir(exist_ok=True)
            facts = {"partition": 1, "start": MIB // SECTOR, "size": partition_gib * GIB // SECTOR}
            for fact, value in facts.items():
                (places[partition] / fact).write_text(f"{value}\n")
        for link, target in places.items():
            (self.blocks / link).unlink(missing_ok=True)
            (self.blocks / link).symlink_to(target)

    def calls(self) -> list[str]:
        path = self.folder / "calls"
        return [line for line in path.read_text().splitlines() if not line.startswith("findmnt")]


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tools:
    made = Tools(tmp_path / "tools", tmp_path / "block")
    made.folder.mkdir()
    made.blocks.mkdir()
    for name in ("growpart", "resize2fs", "xfs_growfs"):
        made.tool(name)
    monkeypatch.setenv("PATH", f"{made.folder}:/usr/bin:/bin")
    monkeypatch.setattr(root_volume, "BLOCK_DEVICES", made.blocks)
    return made


@pytest.mark.parametrize(
    ("kind", "grows"), [("ext4", "resize2fs /dev/nvme0n1p1"), ("xfs", "xfs_growfs /")], ids=["ext4", "xfs"]
)
async def test_the_partition_grows_before_its_file_system(tools: Tools, kind: str, grows: str) -> None:
    tools.tool("findmnt", f"/dev/nvme0n1p1 {kind}")
    tools.disk("nvme0n1", 60, partition="nvme0n1p1", partition_gib=5)
    await RootVolume().make_room(60 * GIB)
    assert tools.calls() == ["growpart /dev/nvme0n1 1", grows]


async def test_a_partition_that_fills_its_disk_is_left_alone(tools: Tools) -> None:
    tools.tool("findmnt", "/dev/xvda1 ext4")
    tools.disk("xvda", 6, partition="xvda1", partition_gib=6)
    await RootVolume().make_room(5 * GIB)
    assert tools.calls() == ["resize2fs /dev/xvda1"]


async def test_a_disk_that_grows_late_is_waited_for(tools: Tools, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(root_volume, "POLL_S", 0.01)
    tools.tool("findmnt", "/dev/xvda ext4")
    tools.disk("xvda", 5)
    growing = asyncio.create_task(RootVolume().make_room(60 * GIB))
    for _ in range(20):
        await asyncio.sleep(0.01)
    assert not growing.done()
    tools.disk("xvda", 60)
    await asyncio.wait_for(growing, 5)
    assert tools.calls() == ["resize2fs /dev/xvda"]


async def test_another_kind_of_file_system_is_told(tools: Tools) -> None:
    tools.tool("findmnt", "/dev/xvda btrfs")
    tools.disk("xvda", 5)
    with pytest.raises(CommandFailed, match="is btrfs: only ext4 and xfs can be grown"):
        await RootVolume().make_room(0)


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    made: list[Path] = []

    def mount(*options: str) -> Path:
        place = tmp_path / f"mount{len(made)}"
        place.mkdir()
        sh("mount", *options, str(place))
        made.append(place)
        return place

    yield mount
    for place in made:
        sh("umount", str(place))


async def test_what_lies_on_no_disk_of_its_own_is_left_alone(mounted: Callable[..., Path], tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for place in (mounted("-t", "tmpfs", "none"), mounted("--bind", str(folder))):
        with pytest.raises(CommandFailed, match="on no disk of its own"):
            await RootVolume(str(place)).make_room(0)


async def test_an_agent_without_a_disk_of_its_own_says_so(tmp_path: Path, image: str, image_cache: Path) -> None:
    with running_agent(tmp_path, "--image-cache", str(image_cache)) as agent:
        client = agent.dial()
        try:
            await client.dispatch(OWNER, pod(unit("main", image, "sleep 1000"), resources={"volumeSize": "9Ti"}))
            await report_when(client, lambda report: states(report) == {"main": "running"})
            assert "volumeSize 9Ti: this node has no disk of its own" in await log_of(client, "")
        finally:
            await client.close()
