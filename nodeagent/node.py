"""Facts about the node that units inherit, and the files of its /etc that they see."""

import resource
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

from nodeagent.oci_spec import CAPABILITIES, NodeFacts

OPEN_FILES = 1_048_576
"""Docker's limit of open files; less where the node allows less."""


def node_facts(etc: Path, cgroup_parent: str) -> NodeFacts:
    """What this node offers. Raises our own limit of open files, which units inherit."""
    return NodeFacts(socket.gethostname(), cgroup_parent, _capabilities(), _open_files(), etc)


def write_etc(etc: Path, dns_servers: Sequence[str], dns_search: Sequence[str]) -> None:
    """Writes resolv.conf, hosts and hostname, in place: running units have the very files mounted. Without DNS
    servers the node's own resolv.conf is copied."""
    lines = [f"nameserver {server}" for server in dns_servers]
    lines += [f"search {' '.join(dns_search)}"] if dns_search else []
    resolv = "\n".join(lines) + "\n" if dns_servers else _node_resolv_conf(lines)
    name = socket.gethostname()
    hosts = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n" + f"{_own_address()}\t{name}\n"
    for path, text in (("resolv.conf", resolv), ("hosts", hosts), ("hostname", f"{name}\n")):
        (etc / path).write_text(text)
        (etc / path).chmod(0o644)


def set_sysctls(values: Mapping[str, str]) -> None:
    """Sets kernel settings of the node's network namespace.

    Raises:
        ValueError: the kernel has no such setting or refuses the value.
    """
    for name, value in values.items():
        try:
            Path("/proc/sys", *name.split(".")).write_text(value)
        except OSError as error:
            raise ValueError(f"sysctl {name}={value}: {error.strerror}") from None


def _capabilities() -> frozenset[str]:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapPrm:"):
            mask = int(line.split()[1], 16)
            return frozenset(name for bit, name in enumerate(CAPABILITIES) if mask >> bit & 1)
    return frozenset()


def _open_files() -> int:
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, OPEN_FILES))
    except (ValueError, OSError):
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return min(OPEN_FILES, resource.getrlimit(resource.RLIMIT_NOFILE)[1])


def _node_resolv_conf(extra: list[str]) -> str:
    try:
        text = Path("/etc/resolv.conf").read_text()
    except OSError:
        text = ""
    return text + "".join(f"{line}\n" for line in extra)


def _own_address() -> str:
    """The address that faces outwards. Connecting a datagram socket sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.1.1"
        return str(probe.getsockname()[0])
