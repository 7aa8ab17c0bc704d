"""Real OCI images and a real registry on loopback, for tests and the demo: nothing comes from the internet.

The image is built by umoci from the machine's static busybox; Debian's docker-registry serves it.
"""

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from tests.waiting import wait_until

BUSYBOX = "/bin/busybox"
_LINKS = """sh sleep echo ls cat id mount hostname httpd env wget nc grep touch mkdir chown stat test true false
df head yes ps kill sysctl"""
_CONFIG = """\
version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage:
  filesystem: {{rootdirectory: {root}}}
  delete: {{enabled: true}}
http:
  addr: {address}
{auth}"""


def free_port() -> int:
    """A TCP port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def build_busybox_image(layout: Path, config: Sequence[str] = ("--config.cmd", "sh"), tag: str = "latest") -> str:
    """Makes an OCI layout with one busybox image and answers its skopeo name. ``config`` are options of
    ``umoci config``: ``--config.entrypoint``, ``--config.env``, ``--config.user`` and so on."""
    root = layout.with_name(f"{layout.name}.root")
    for folder in ("bin", "etc", "tmp", "var/www", "proc", "sys", "dev"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    os.chmod(root / "tmp", 0o1777)
    shutil.copy(BUSYBOX, root / "bin/busybox")
    for name in _LINKS.split():
        (root / "bin" / name).symlink_to("busybox")
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1001:web:/home/web:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\nweb:x:1001:\nextra:x:1002:web\n")
    image = f"{layout}:{tag}"
    for command in (
        ["init", "--layout", str(layout)],
        ["new", "--image", image],
        ["insert", "--image", image, str(root), "/"],
        ["config", "--image", image, *config],
    ):
        subprocess.run(["umoci", *command], check=True, capture_output=True)
    shutil.rmtree(root)
    return f"oci:{image}"


class Registry:
    """A running registry."""

    def __init__(self, port: int) -> None:
        self.port = port

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def push(self, source: str, name: str, login: str = "") -> str:
        """Copies ``source`` (a skopeo name) to ``name`` (``repository:tag``); answers the full image name."""
        target = f"{self.host}/{name}"
        creds = [f"--dest-creds={login}"] if login else []
        command = ["skopeo", "copy", "-q", "--dest-tls-verify=false", *creds, source, f"docker://{target}"]
        subprocess.run(command, check=True, capture_output=True)
        return target


@contextmanager
def running_registry(folder: Path, *, htpasswd: str = "", port: int = 0) -> Iterator[Registry]:
    """A registry on loopback that keeps its images in ``folder``. ``htpasswd`` lines (bcrypt) make it ask for a
    login."""
    folder.mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    auth = ""
    if htpasswd:
        (folder / "htpasswd").write_text(htpasswd)
        auth = f"auth:\n  htpasswd: {{realm: test, path: {folder / 'htpasswd'}}}\n"
    config = folder / "registry.yml"
    config.write_text(_CONFIG.format(root=folder / "data", address=f"127.0.0.1:{port}", auth=auth))
    with (folder / "registry.log").open("wb") as log:
        process = subprocess.Popen(["docker-registry", "serve", str(config)], stdout=log, stderr=log)
    try:
        wait_until(lambda: process.poll() is not None or _answers(port), 20.0, "the registry answers")
        if process.poll() is not None:
            raise RuntimeError(f"docker-registry ended: {(folder / 'registry.log').read_text()[-500:]}")
        yield Registry(port)
    finally:
        process.terminate()
        process.wait()


def _answers(port: int) -> bool:
    try:
        with urlopen(f"http://127.0.0.1:{port}/v2/", timeout=1):
            return True
    except URLError as error:
        return getattr(error, "code", 0) == 401
