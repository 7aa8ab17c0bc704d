"""A Debian made by debootstrap, and namespaces in which its programs run. Nothing of them outlives the processes: all
mounts are made in mount namespaces of their own."""

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.waiting import wait_until

SUITE = "bookworm"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_NAMESPACE = ["unshare", "--mount", "--propagation", "private", "--pid", "--uts", "--ipc", "--fork", "--kill-child"]
_DEVICES = {"null": 3, "zero": 5, "full": 7, "random": 8, "urandom": 9}
"""Minor numbers of major 1. No disk is among them: nothing inside may touch this machine's."""


def debootstrap(root: Path) -> None:
    """A minimal Debian 12 in ``root``, from this machine's own mirror, with this machine's settings for apt."""
    mirror = _mirror()
    trusted = [f"--keyring={KEYRING}"] if KEYRING.exists() else []
    command = ["debootstrap", "--variant=minbase", *trusted, SUITE, str(root), *([mirror] if mirror else [])]
    subprocess.run([*_NAMESPACE, "--", *command], check=True, stdout=subprocess.DEVNULL)
    settings = subprocess.run(
        ["apt-config", "dump", "--format", '%F "%v";%n', "Acquire"], capture_output=True, text=True
    )
    (root / "etc/apt/apt.conf.d/90host").write_text(settings.stdout)
    shutil.copyfile("/etc/resolv.conf", root / "etc/resolv.conf")


def _mirror() -> str:
    """Where this machine gets the packages of that suite; empty: it has no such source, debootstrap knows one."""
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI)", f"Codename: {SUITE}", "Created-By: Packages"]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.partition("\n")[0]


class Machine:
    """Running namespaces with ``root`` as the root of what is run in them."""

    def __init__(self, root: Path, pid: int) -> None:
        self.root, self._pid = root, pid

    def inside(self, *command: str) -> list[str]:
        """The command line that runs ``command`` in the machine."""
        enter = ["nsenter", f"--target={self._pid}", "--mount", "--net", "--pid", "--uts", "--ipc"]
        return [*enter, "--", "chroot", str(self.root), "env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", *command]

    def beside(self, *command: str) -> list[str]:
        """The command line that runs a program of this machine, with our files, in the machine's network."""
        return ["nsenter", f"--target={self._pid}", "--net", "--", *command]

    def run(self, *command: str) -> str:
        """Standard output and standard error of ``command`` in the machine; an AssertionError unless it ends with 0."""
        return _checked(self.inside(*command))


@contextmanager
def machine(root: Path, *, own_network: bool) -> Iterator[Machine]:
    """Namespaces for ``root``. A network of their own has only loopback, which also is 169.254.169.254."""
    network = ["--net"] if own_network else []
    script = [f"mount --bind {root} {root}", *_mounts(root)]
    script += ["ip link set lo up", "ip addr add 169.254.169.254/32 dev lo"] if own_network else []
    script += ["echo ready", "exec sleep infinity"]
    command = [*_NAMESPACE, *network, "--", "sh", "-euc", "\n".join(script)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", "the namespaces could not be made"
        yield Machine(root, _child(process.pid))
    finally:
        process.kill()  # and with it the namespaces' first process, hence all in them
        process.wait()


def _mounts(root: Path) -> Iterator[str]:
    yield f"mount -t proc proc {root}/proc"
    yield f"mount --rbind /sys {root}/sys"
    yield f"mount -t tmpfs tmpfs {root}/run"
    yield f"mount -t tmpfs -o mode=0755 tmpfs {root}/dev"
    for name, minor in _DEVICES.items():
        yield f"mknod -m 0666 {root}/dev/{name} c 1 {minor}"
    yield f"mknod -m 0666 {root}/dev/tty c 5 0"
    yield f"mkdir {root}/dev/pts {root}/dev/shm"
    yield f"mount -t devpts -o newinstance,ptmxmode=0666 devpts {root}/dev/pts"
    yield f"ln -s pts/ptmx {root}/dev/ptmx"
    yield f"ln -s /proc/self/fd {root}/dev/fd"


def _child(pid: int) -> int:
    children = Path(f"/proc/{pid}/task/{pid}/children")
    return int(wait_until(lambda: children.read_text().split(), 5.0, "the namespaces have a process")[0])


def _checked(command: Sequence[str]) -> str:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-4000:]}"
    return done.stdout
