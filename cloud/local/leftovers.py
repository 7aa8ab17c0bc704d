"""What an instance's sudden death leaves on the host, and its removal.

Mounts, processes and the network card die with the instance's namespaces. Control groups and the OCI runtime's
state are not namespaced: the node agent knows how to name its own, so its clean-up command is asked.
"""

import importlib.util
import logging
import subprocess
import sys
from pathlib import Path

log = logging.getLogger(__name__)

CLEANUP_TIMEOUT_S = 60.0
_CGROUPS = Path("/sys/fs/cgroup")


def remove_leftovers(state_dir: Path, instance_id: str) -> None:
    """Removes what the agent of a dead instance left outside its namespaces. Errors are logged: they harm nobody."""
    if not _has_state(state_dir) or importlib.util.find_spec("nodeagent.cleanup") is None:
        return
    command = [sys.executable, "-m", "nodeagent.cleanup", "--state-dir", str(state_dir)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=CLEANUP_TIMEOUT_S, check=False, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        log.error("%s: clean-up did not end within %g s", instance_id, CLEANUP_TIMEOUT_S)
        return
    if done.returncode:
        log.error("%s: clean-up failed: %s", instance_id, done.stderr.strip()[-500:])


def _has_state(state_dir: Path) -> bool:
    try:
        return any(state_dir.iterdir())
    except FileNotFoundError:
        return False


def control_groups(directory: Path) -> list[str]:
    """Control groups of this cloud's instances that are still there: their path holds an instance's id."""
    try:
        ids = {entry.name for entry in (directory / "instances").iterdir()}
    except FileNotFoundError:
        return []
    return [str(group) for group in _CGROUPS.glob("**/") if ids and not ids.isdisjoint(group.parts)]
