"""Finds and removes everything of a local cloud on this machine, without its daemon.

The records name the instances; as a second way, every process of an instance that is not inside a pod has the
directory in its environment. The caller holds the daemon's lock.
"""

import os
import shutil
import subprocess
import time
from pathlib import Path

from cloud.local import machine
from cloud.local.leftovers import control_group, control_groups, remove_control_groups
from cloud.local.network import Network, NetworkError
from cloud.local.records import Records
from milpa_ray.ports import InstanceState

KILL_TIMEOUT_S = 10.0


def remove_all(directory: Path, network: Network) -> None:
    """Kills all instances, removes what they left, and the network. Their records say terminated afterwards."""
    records = Records(directory)
    instances, _ = records.read()
    for record in instances.values():
        machine.kill(record.pid, record.start_time)
    for pid in instance_processes(directory):
        machine.kill(pid, machine.start_time_of(pid))
    for record in instances.values():
        machine.kill_and_wait(record.pid, record.start_time, KILL_TIMEOUT_S)
    for point in reversed(mounts_below(directory)):
        subprocess.run(["umount", "--lazy", point], check=False, capture_output=True, timeout=KILL_TIMEOUT_S)

    ended = [record for record in instances.values() if record.state is not InstanceState.TERMINATED]
    remove_control_groups(control_group(network.bridge))
    for record in ended:
        record.move_to(InstanceState.TERMINATED, time.time(), "Client.UserInitiatedShutdown")
        records.strip_instance(record.id)
        records.save_instance(record)
    network.down()


def leftovers(directory: Path, network: Network) -> list[str]:
    """What is still there, for people."""
    found = [f"process {pid}" for pid in instance_processes(directory)]
    found += [f"mount {point}" for point in mounts_below(directory)]
    found += [f"control group {group}" for group in control_groups(control_group(network.bridge))]
    try:
        found += network.leftovers()
    except NetworkError as error:
        found.append(f"network: {error}")
    return found


def remove_data(directory: Path) -> None:
    """Removes the directory. Call with no instance left."""
    shutil.rmtree(directory, ignore_errors=True)


def instance_processes(directory: Path) -> list[int]:
    """PIDs of inits and agents of this cloud's instances, wherever they are in their life."""
    mark = b"MILPA_LOCAL_CLOUD=" + os.fsencode(directory) + b"\0"
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                environment = (entry / "environ").read_bytes()
            except OSError:
                continue
            if environment.startswith(mark) or b"\0" + mark in environment:
                found.append(int(entry.name))
    return found


def mounts_below(directory: Path) -> list[str]:
    """Mount points of the host below the directory, in the order of mounting."""
    points = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        point = line.split(" ")[4].encode().decode("unicode_escape")
        if point.startswith(f"{directory}/"):
            points.append(point)
    return points
