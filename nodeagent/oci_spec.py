"""The OCI runtime configuration of a unit: manifest and image merged as Docker and Kubernetes do. Pure but for the
image's own account files; it makes nothing.

A unit has its own mount, PID and IPC namespaces; network and hostname are the node's. Limits are Docker's defaults,
since images are written for those: its capabilities, no no-new-privileges, about a million open files.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from milpa_ray.api.pod import PodSpec, SecurityContext, Unit
from nodeagent.accounts import Account, resolve_user

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# fmt: off
DOCKER_CAPABILITIES = frozenset((
    "CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID",
    "CAP_SYS_CHROOT",
))
# In the kernel's order: bit n of a capability mask is the n-th name.
CAPABILITIES = (
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID",
    "CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN",
    "CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
)
_MASKED = (
    "/proc/asound", "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
    "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap",
)
_READONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
# fmt: on
_IPC_SYSCTL = re.compile(r"kernel\.(msgmax|msgmnb|msgmni|sem|shmall|shmmax|shmmni|shm_rmid_forced)|fs\.mqueue\..+")


class SpecError(ValueError):
    """The unit cannot be run as it is described. ``str()`` is fit for a user."""


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What the node gives to its units."""

    hostname: str
    cgroup_parent: str
    capabilities: frozenset[str]
    open_files: int
    etc: Path


@dataclass(frozen=True, slots=True)
class UnitImage:
    """A unit's image as unpacked: ``config`` is the image's, ``rootfs`` the lower file system."""

    rootfs: Path
    config: Mapping[str, Any]


def runtime_config(
    unit: Unit, pod: PodSpec, image: UnitImage, node: NodeFacts, volumes: Mapping[str, Path], cid: str
) -> dict[str, Any]:
    """``config.json`` for runc. The root file system is ``rootfs`` beside it.

    Raises:
        SpecError: see there.
    """
    account = _account(unit, pod, image)
    env = _environment(unit, image, account, node)
    args = _command(unit, image, env)
    capabilities = _capabilities(unit.security_context, node.capabilities)
    return {
        "ociVersion": "1.0.2",
        "root": {"path": "rootfs"},
        "process": {
            "user": {"uid": account.uid, "gid": account.gid, "additionalGids": list(account.groups)},
            "args": args,
            "env": [f"{name}={value}" for name, value in env.items()],
            "cwd": unit.working_dir or image.config.get("WorkingDir") or "/",
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), capabilities),
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": node.open_files, "hard": node.open_files}],
        },
        "mounts": [*_system_mounts(node.etc), *_volume_mounts(unit, volumes)],
        "linux": {
            "cgroupsPath": f"{node.cgroup_parent}/{cid}",
            "namespaces": [{"type": "mount"}, {"type": "pid"}, {"type": "ipc"}],
            "resources": {"devices": _devices()},
            "sysctl": {item.name: item.value for item in _sysctls(pod) if _IPC_SYSCTL.fullmatch(item.name)},
            "maskedPaths": _MASKED,
            "readonlyPaths": _READONLY,
        },
    }


def network_sysctls(pod: PodSpec) -> dict[str, str]:
    """The pod's settings of the node's network stack, which is the pod's own.

    Raises:
        SpecError: a setting that would change the whole machine.
    """
    return {item.name: item.value for item in _sysctls(pod) if item.name.startswith("net.")}


def _sysctls(pod: PodSpec) -> Sequence[Any]:
    found = pod.security_context.sysctls if pod.security_context else ()
    for item in found:
        if not re.fullmatch(r"[a-z0-9_]+(\.[A-Za-z0-9_-]+)+", item.name):
            raise SpecError(f"sysctl {item.name!r} is no name of a kernel setting")
        if not (item.name.startswith("net.") or _IPC_SYSCTL.fullmatch(item.name)):
            raise SpecError(
                f"sysctl {item.name} is not namespaced: only net.*, fs.mqueue.* and IPC settings can be set"
            )
    return found


def _account(unit: Unit, pod: PodSpec, image: UnitImage) -> Account:
    own, shared = unit.security_context, pod.security_context
    uid = next((c.run_as_user for c in (own, shared) if c and c.run_as_user is not None), None)
    gid = next((c.run_as_group for c in (own, shared) if c and c.run_as_group is not None), None)
    try:
        account = resolve_user(image.rootfs, image.config.get("User", "") if uid is None else str(uid))
    except ValueError as error:
        raise SpecError(f"unit {unit.name}: {error}") from None
    if gid is not None:
        account = replace(account, gid=gid)
    extra = shared.supplemental_groups if shared else ()
    return replace(account, groups=tuple(dict.fromkeys((*account.groups, *extra))))


def _environment(unit: Unit, image: UnitImage, account: Account, node: NodeFacts) -> dict[str, str]:
    env = {"PATH": DEFAULT_PATH, "HOSTNAME": node.hostname, "HOME": account.home}
    for item in image.config.get("Env") or ():
        name, _, value = item.partition("=")
        env[name] = value
    for var in unit.env:
        env[var.name] = expand(var.value, env)
    for name, value in env.items():
        if "\0" in name or "\0" in value:
            raise SpecError(f"unit {unit.name}: environment variable {name!r} holds a null character")
    return env


def _command(unit: Unit, image: UnitImage, env: Mapping[str, str]) -> list[str]:
    args = [expand(text, env) for text in unit.args]
    if unit.command:
        return [expand(text, env) for text in unit.command] + args
    found = list(image.config.get("Entrypoint") or ()) + (args or list(image.config.get("Cmd") or ()))
    if not found:
        raise SpecError(f"unit {unit.name}: image {unit.image} names no command: give the unit a command")
    return found


def expand(text: str, env: Mapping[str, str]) -> str:
    """Kubernetes' ``$(NAME)``: the variable's value; unknown names stay as they are; ``$$`` is a dollar sign."""

    def value(match: re.Match[str]) -> str:
        name = match.group(1)
        return "$" if name is None else env.get(name, match.group(0))

    return re.sub(r"\$\$|\$\(([A-Za-z_.-][A-Za-z0-9_.-]*)\)", value, text)


def _capabilities(context: SecurityContext | None, available: frozenset[str]) -> list[str]:
    change = context.capabilities if context else None
    add = {_capability(name) for name in change.add} if change else set()
    drop = {_capability(name) for name in change.drop} if change else set()
    lacking = add - {"CAP_ALL"} - available
    if lacking:
        raise SpecError(f"capabilities.add: the node has no {', '.join(sorted(lacking))}")
    base = available if "CAP_ALL" in add else DOCKER_CAPABILITIES & available
    kept = frozenset() if "CAP_ALL" in drop else base - drop
    return sorted(kept | (add - {"CAP_ALL"} - drop))


def _capability(name: str) -> str:
    full = name.upper() if name.upper().startswith("CAP_") else f"CAP_{name.upper()}"
    if full != "CAP_ALL" and full not in CAPABILITIES:
        raise SpecError(f"capability {name!r} is unknown")
    return full


def _system_mounts(etc: Path) -> list[dict[str, Any]]:
    safe = ["nosuid", "noexec", "nodev"]

    def mount(destination: str, kind: str, options: list[str]) -> dict[str, Any]:
        return {"destination": destination, "type": kind, "source": kind, "options": options}

    files = [
        {"destination": f"/etc/{name}", "type": "bind", "source": str(etc / name), "options": ["rbind", "rprivate"]}
        for name in ("resolv.conf", "hosts", "hostname")
    ]
    return [
        mount("/proc", "proc", safe),
        mount("/dev", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount("/dev/pts", "devpts", ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
        mount("/dev/shm", "tmpfs", [*safe, "mode=1777", "size=67108864"]),  # noqa: S108
        mount("/dev/mqueue", "mqueue", safe),
        mount("/sys", "sysfs", [*safe, "ro"]),
        mount("/sys/fs/cgroup", "cgroup", [*safe, "ro", "relatime"]),
        *files,
    ]


def _volume_mounts(unit: Unit, volumes: Mapping[str, Path]) -> list[dict[str, Any]]:
    found = []
    for item in unit.volume_mounts:
        if item.name not in volumes:
            raise SpecError(f"unit {unit.name}: volumeMounts names volume {item.name!r}, which the pod does not have")
        if not item.mount_path.startswith("/"):
            raise SpecError(f"unit {unit.name}: mountPath {item.mount_path!r} must start with /")
        source = str(volumes[item.name])
        found.append(
            {"destination": item.mount_path, "type": "bind", "source": source, "options": ["rbind", "rprivate", "rw"]}
        )
    # A mount below another one must come after it.
    return sorted(found, key=lambda mount: str(mount["destination"]).rstrip("/").count("/"))


def _devices() -> list[dict[str, Any]]:
    """Docker's list: nodes may be made, but only the harmless ones opened."""

    def allow(major: int | None, minor: int | None, access: str = "rwm") -> dict[str, Any]:
        rule: dict[str, Any] = {"allow": True, "type": "c", "access": access}
        return rule | {k: v for k, v in (("major", major), ("minor", minor)) if v is not None}

    harmless = [(1, 5), (1, 3), (1, 9), (1, 8), (5, 0), (5, 1), (5, 2)]
    return [
        {"allow": False, "access": "rwm"},
        allow(None, None, "m"),
        {"allow": True, "type": "b", "access": "m"},
        *(allow(major, minor) for major, minor in harmless),
        allow(136, None),
    ]
