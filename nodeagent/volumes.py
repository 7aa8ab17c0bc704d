"""A pod's volumes as directories of the node, below the agent's state directory."""

from pathlib import Path

from milpa_ray.api.pod import Volume
from nodeagent.bundle import is_mounted
from nodeagent.commands import run
from nodeagent.oci_spec import SpecError
from nodeagent.state_dir import StateDir


async def make_volume(volume: Volume, dirs: StateDir) -> Path:
    """The directory that backs ``volume``, made if it is not there yet; its content outlives restarts of units.

    Raises:
        SpecError: a package path that is not on this node, or a volume of no kind.
        CommandFailed: the tmpfs could not be mounted.
    """
    if volume.package_path is not None:
        return _package(volume.name, volume.package_path.path, dirs.packages)
    if volume.empty_dir is None:
        raise SpecError(f"volume {volume.name}: one of emptyDir and packagePath must be set")
    path = dirs.volumes / volume.name
    path.mkdir(exist_ok=True)
    if volume.empty_dir.medium == "Memory" and not is_mounted(path):
        size = volume.empty_dir.size_limit
        # sizeLimit is in MB; what a tmpfs holds is rounded up to whole pages.
        options = "mode=0777,nosuid,nodev" + (f",size={size * 1_000_000}" if size else "")
        await run("mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path))
    path.chmod(0o777)
    return path


async def unmount_volumes(dirs: StateDir) -> None:
    """Unmounts what ``make_volume`` mounted; the files of disk-backed volumes stay."""
    for path in dirs.volumes.iterdir() if dirs.volumes.is_dir() else ():
        if is_mounted(path):
            await run("umount", "--lazy", str(path))


def _package(name: str, path: str, packages: Path) -> Path:
    found = (packages / path.lstrip("/")).resolve()
    if not found.is_relative_to(packages.resolve()) or not found.exists():
        raise SpecError(f"volume {name}: package path {path!r} is not on this node")
    return found
