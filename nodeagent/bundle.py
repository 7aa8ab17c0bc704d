"""The directory from which one start of a unit runs: an overlay mount over the image, and the runtime's config.json.

A restarted unit gets a new bundle, so it begins with the image's own files again.
"""

import asyncio
import json
import os
import shutil
from pathlib import Path
from typing import Any

from nodeagent.commands import CommandFailed, run


async def make_bundle(bundle: Path, lower: Path, config: dict[str, Any]) -> None:
    """Makes ``bundle``; what a killed agent left there goes first.

    Raises:
        CommandFailed: neither mounting nor copying worked.
    """
    await remove_bundle(bundle)
    for name in ("rootfs", "upper", "work"):
        (bundle / name).mkdir(parents=True)
    _copy_owner(lower, bundle / "upper")
    options = f"lowerdir={lower},upperdir={bundle / 'upper'},workdir={bundle / 'work'}"
    try:
        await run("mount", "-t", "overlay", "overlay", "-o", options, str(bundle / "rootfs"))
    except CommandFailed:
        # No overlayfs here (the state directory may lie on one itself).
        await run("cp", "-a", "--reflink=auto", f"{lower}/.", str(bundle / "rootfs"), timeout_s=600.0)
    (bundle / "config.json").write_text(json.dumps(config))


def _copy_owner(lower: Path, upper: Path) -> None:
    """The unit's root directory has the permissions of the image's, which overlayfs takes from the upper one."""
    status = lower.stat()
    os.chmod(upper, status.st_mode & 0o7777)
    os.chown(upper, status.st_uid, status.st_gid)


async def remove_bundle(bundle: Path) -> None:
    """Unmounts and removes; nothing happens when it is not there."""
    if is_mounted(bundle / "rootfs"):
        await run("umount", "--lazy", str(bundle / "rootfs"))
    await asyncio.to_thread(shutil.rmtree, bundle, ignore_errors=True)


def is_mounted(path: Path) -> bool:
    """Whether something is mounted on ``path``."""
    return os.path.ismount(path)
