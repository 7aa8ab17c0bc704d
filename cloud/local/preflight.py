"""Whether this machine can run the local cloud, check by check, with the remedy for each; for ``milpa doctor``.

Looks only, changes nothing, and never raises: a check that cannot be made is one that failed.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

from cloud.local.network import Network, NetworkError, used_ranges

MIN_MEMORY_MIB = 1024
"""Controllers, etcd and a few instances; each instance's agent takes some 50 MiB more."""
_PROBE_TIMEOUT_S = 10.0

BINARIES = {
    "runc": "runc",
    "conmon": "conmon",
    "skopeo": "skopeo",
    "umoci": "umoci",
    "nft": "nftables",
    "ip": "iproute2",
    "tini": "tini",
    "unshare": "util-linux",
    "mount": "mount",
}
"""Program and the Debian package that has it."""


@dataclass(frozen=True, slots=True)
class Problem:
    """The outcome of one check, good or bad. ``remedy`` is empty when ``ok``."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""


def check(bridge: str = "milpa0", subnet: str = "10.210.0.0/16", owner: str = "") -> list[Problem]:
    """All checks. ``owner`` is the local cloud's directory: its own bridge and range are no collision."""
    checks: list[Callable[[], Iterator[Problem]]] = [
        _root,
        _binaries,
        _namespaces,
        _overlay,
        _control_groups,
        _memory,
        _nftables,
        lambda: _forwarding(bridge),
        lambda: _network(bridge, subnet, owner),
    ]
    found: list[Problem] = []
    for one in checks:
        try:
            found += one()
        except (OSError, subprocess.SubprocessError) as error:
            found.append(Problem(one.__name__.strip("_"), False, str(error), "see the message"))
    return found


def _root() -> Iterator[Problem]:
    ok = os.geteuid() == 0
    yield Problem("root", ok, f"user id {os.geteuid()}", "" if ok else "run it as root: sudo milpa ...")


def _binaries() -> Iterator[Problem]:
    for name, package in BINARIES.items():
        path = shutil.which(name)
        yield Problem(name, path is not None, path or "not found", "" if path else f"apt-get install {package}")


def _namespaces() -> Iterator[Problem]:
    command = [
        "unshare",
        "--net",
        "--pid",
        "--mount",
        "--uts",
        "--ipc",
        "--fork",
        "mount",
        "-t",
        "proc",
        "proc",
        "/proc",
    ]
    if shutil.which("unshare") is None:
        yield Problem("namespaces", False, "unshare is missing", "apt-get install util-linux")
        return
    done = subprocess.run(command, capture_output=True, text=True, timeout=_PROBE_TIMEOUT_S, check=False)
    ok = done.returncode == 0
    remedy = "" if ok else "run as root on a kernel (or in a container with --privileged) that allows new namespaces"
    yield Problem("namespaces", ok, "network, PID, mount, UTS, IPC" if ok else done.stderr.strip(), remedy)


def _overlay() -> Iterator[Problem]:
    ok = any(line.split()[-1] == "overlay" for line in Path("/proc/filesystems").read_text().splitlines())
    yield Problem("overlayfs", ok, "known to the kernel" if ok else "not loaded", "" if ok else "modprobe overlay")


def _control_groups() -> Iterator[Problem]:
    root = Path("/sys/fs/cgroup")
    version2 = root / "cgroup.controllers"
    if version2.exists():
        present = set(version2.read_text().split())
    else:
        present = {entry.name for entry in root.iterdir() if entry.is_dir()}
    missing = {"cpu", "memory", "pids"} - present
    remedy = f"mount the controllers below {root} (systemd and docker --privileged do)" if missing else ""
    detail = f"missing: {', '.join(sorted(missing))}" if missing else f"version {2 if version2.exists() else 1}"
    yield Problem("cgroups", not missing, detail, remedy)


def _memory() -> Iterator[Problem]:
    lines = Path("/proc/meminfo").read_text().splitlines()
    available = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")) // 1024
    ok = available >= MIN_MEMORY_MIB
    yield Problem(
        "memory", ok, f"{available} MiB available", "" if ok else f"free some: {MIN_MEMORY_MIB} MiB are needed"
    )


def _nftables() -> Iterator[Problem]:
    if shutil.which("nft") is None:
        return  # told by the check of binaries
    done = subprocess.run(
        ["nft", "list", "tables"], capture_output=True, text=True, timeout=_PROBE_TIMEOUT_S, check=False
    )
    ok = done.returncode == 0
    yield Problem(
        "nftables", ok, "usable" if ok else done.stderr.strip(), "" if ok else "run as root; modprobe nf_tables"
    )


def _forwarding(bridge: str) -> Iterator[Problem]:
    """Another firewall's policy may drop what we accept: each table has its own say."""
    if shutil.which("nft") is None:
        return
    done = subprocess.run(
        ["nft", "-j", "list", "chains"], capture_output=True, text=True, timeout=_PROBE_TIMEOUT_S, check=False
    )
    droppers = dropping_chains(done.stdout) if done.returncode == 0 else []
    remedy = ""
    if droppers:
        chain = "DOCKER-USER" if shutil.which("docker") else "FORWARD"
        remedy = f"iptables -I {chain} -i {bridge} -j ACCEPT; iptables -I {chain} -o {bridge} -j ACCEPT"
    detail = f"dropped by default in {', '.join(droppers)}" if droppers else "no other firewall drops it"
    ok = not droppers or _accepts(bridge)
    yield Problem("forwarding", ok, detail, "" if ok else remedy)


def dropping_chains(listing: str) -> list[str]:
    """IPv4 chains that drop forwarded packets by default, from ``nft -j list chains``."""
    chains = [entry["chain"] for entry in json.loads(listing)["nftables"] if "chain" in entry]
    return [
        f"{chain['family']} {chain['table']} {chain['name']}"
        for chain in chains
        if chain.get("hook") == "forward" and chain.get("policy") == "drop" and chain["family"] in ("ip", "inet")
    ]


def _accepts(bridge: str) -> bool:
    """Whether rules of somebody else's accept the bridge's packets in both directions."""
    done = subprocess.run(
        ["nft", "list", "ruleset"], capture_output=True, text=True, timeout=_PROBE_TIMEOUT_S, check=False
    )
    lines = [line for line in done.stdout.splitlines() if f'"{bridge}"' in line and "accept" in line]
    return any("iifname" in line for line in lines) and any("oifname" in line for line in lines)


def _network(bridge: str, subnet: str, owner: str) -> Iterator[Problem]:
    if shutil.which("ip") is None:
        return
    try:
        network = Network(bridge, IPv4Network(subnet), owner)
        taken_by = network.bridge_owner()
        taken = [f"{used} on {device}" for used, device in used_ranges() if used.overlaps(network.subnet)]
    except (NetworkError, ValueError) as error:
        yield Problem("network", False, str(error), "correct the bridge's name or the subnet")
        return
    ours = taken_by is not None and network.owns(taken_by)
    free = taken_by is None or ours
    yield Problem(
        "bridge",
        free,
        f"{bridge} is {'free' if taken_by is None else 'ours' if ours else f'taken by {taken_by!r}'}",
        "" if free else "choose another bridge name, or take that local cloud down (milpa down)",
    )
    clear = ours or not taken
    yield Problem(
        "addresses",
        clear,
        f"{subnet} is {'free' if clear else 'in use: ' + ', '.join(taken)}",
        "" if clear else "choose another subnet",
    )
