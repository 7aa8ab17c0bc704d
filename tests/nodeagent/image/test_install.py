"""``install.sh`` in a fresh Debian 12, and the agent that it installed, run by the unit's own commands.

Takes minutes: debootstrap, then the packages. One machine for all tests, in the order in which they stand here.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from milpa_ray import __version__
from milpa_ray.pki import CertificateAuthority
from milpa_ray.ports import AGENT_PORT, bootstrap_identity
from milpa_ray.userdata import UserData
from tests.nodeagent.image import controller
from tests.nodeagent.image.chroot import Machine, debootstrap, machine
from tests.oci import build_busybox_image, free_port, running_registry
from tests.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.integration, pytest.mark.timeout(1200)]

ROOT = Path(__file__).parents[3]
IMAGE = ROOT / "nodeagent/image"
STAGING = "/tmp/milpa-image"
UNIT = "/etc/systemd/system/milpa-agent.service"
FILES = ("install.sh", "packages", "requirements.txt", "milpa-agent.service", "cloud-init.cfg")


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheels")
    environment = {**os.environ, "PYTHON": sys.executable}
    subprocess.run([IMAGE / "wheelhouse.sh", folder], check=True, env=environment)
    return folder


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory, wheels: Path) -> Iterator[Path]:
    """A fresh Debian with what Packer uploads."""
    root = tmp_path_factory.mktemp("debian") / "root"
    debootstrap(root)
    staging = root / STAGING.lstrip("/")
    staging.mkdir()
    for name in FILES:
        shutil.copy(IMAGE / name, staging)
    shutil.copytree(wheels, staging / "wheels")
    yield root
    shutil.rmtree(root)


def _install(debian: Path, *options: str) -> str:
    with machine(debian, own_network=False) as inside:
        return inside.run("bash", f"{STAGING}/install.sh", *options)


def _exec_lines(debian: Path, name: str) -> list[str]:
    lines = (debian / UNIT.lstrip("/")).read_text().splitlines()
    found = [line.partition("=")[2] for line in lines if line.startswith(f"{name}=")]
    assert len(found) == 1
    return shlex.split(found[0])


def test_installs_and_enables_only(debian: Path) -> None:
    said = _install(debian)
    assert "no service manager runs here: the agent is enabled only" in said
    assert (debian / "etc/systemd/system/multi-user.target.wants/milpa-agent.service").is_symlink()
    missing = [
        name
        for name in ("runc", "conmon", "skopeo", "umoci", "growpart", "resize2fs", "xfs_growfs", "nft")
        if not shutil.which(name, path=f"{debian}/usr/bin:{debian}/usr/sbin:{debian}/sbin")
    ]
    assert missing == []


def test_the_unit_is_what_systemd_understands(debian: Path) -> None:
    with machine(debian, own_network=True) as inside:
        assert inside.run("systemd-analyze", "verify", UNIT) == ""


def test_a_second_run_changes_nothing(debian: Path) -> None:
    before = _listing(debian)
    said = _install(debian)
    assert "installing Debian packages" not in said
    assert _listing(debian) == before


def _listing(debian: Path) -> dict[str, int]:
    """Files and their sizes, without compiled Python, whose order of constants may differ from run to run."""
    folders = ("etc", "opt", "usr/bin", "usr/sbin", "var/lib/dpkg")
    files = (path for folder in folders for path in (debian / folder).rglob("*") if path.is_file())
    return {str(path): path.stat().st_size for path in files if "__pycache__" not in path.parts}


def test_cleaning_leaves_no_identity(debian: Path) -> None:
    (debian / "etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    (debian / "etc/ssh").mkdir(exist_ok=True)
    (debian / "etc/ssh/ssh_host_ed25519_key").write_text("secret")
    (debian / "var/lib/milpa").mkdir(exist_ok=True)
    _install(debian, "--clean")
    assert (debian / "etc/machine-id").read_bytes() == b""
    assert not (debian / "etc/ssh/ssh_host_ed25519_key").exists()
    assert not (debian / "var/lib/milpa").exists()
    assert list((debian / "var/lib/apt/lists").iterdir()) == []
    logs = [path for path in (debian / "var/log").rglob("*") if path.is_file() and not path.is_symlink()]
    assert [path for path in logs if path.stat().st_size] == []


@contextmanager
def _process(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, cwd=ROOT)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


@contextmanager
def _booted(debian: Path, tmp_path: Path) -> Iterator[Machine]:
    """The machine as systemd would have it after the unit's start: directories, user data, agent."""
    with machine(debian, own_network=True) as inside:
        metadata = ["-m", "tests.nodeagent.metadata_server", "--listen", "169.254.169.254"]
        serve = inside.beside(sys.executable, *metadata, "--user-data", str(tmp_path / "user-data"))
        with _process(serve, tmp_path / "metadata.log"):
            inside.run("mkdir", "-m", "0700", "/run/milpa", "/var/lib/milpa")
            inside.run(*_exec_lines(debian, "ExecStartPre"))
            assert inside.run("stat", "-c", "%a", "/run/milpa/user-data").strip() == "600"
            log = tmp_path / "agent.log"
            agent = inside.inside(*_exec_lines(debian, "ExecStart"))
            with _process(agent, log) as process:
                ready = f"serving on 0.0.0.0:{AGENT_PORT} with mutual TLS"
                wait_until(lambda: process.poll() is not None or ready in log.read_text(), 30.0, "the agent serves")
                assert process.poll() is None, log.read_text()
                yield inside
            clean = ["/opt/milpa-agent/bin/python", "-m", "nodeagent.cleanup", "--state-dir", "/var/lib/milpa"]
            inside.run(*clean)


def test_the_agent_answers_over_mutual_tls_and_runs_a_pod(debian: Path, tmp_path: Path) -> None:
    ca = CertificateAuthority.create("test")
    pair = ca.issue([bootstrap_identity(controller.BATCH)], server=True, client=False)
    user_data = UserData("test", controller.BATCH, ca.pair.cert.decode(), pair.cert.decode(), pair.key.decode())
    (tmp_path / "user-data").write_bytes(user_data.pack())
    (tmp_path / "ca.crt").write_bytes(ca.pair.cert)
    (tmp_path / "ca.key").write_bytes(ca.pair.key)
    with running_registry(tmp_path / "registry") as registry:
        registry.push(build_busybox_image(tmp_path / "layout"), "test/busybox:1")
    port = free_port()
    with _booted(debian, tmp_path) as inside:
        config = tmp_path / "registry/registry.yml"
        config.write_text(config.read_text().replace(registry.host, f"127.0.0.1:{port}"))
        with _process(inside.beside("docker-registry", "serve", str(config)), tmp_path / "registry.log"):
            image = f"localhost:{port}/test/busybox:1"
            command = inside.beside(sys.executable, "-m", "tests.nodeagent.image.controller", str(tmp_path), image)
            done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=180)
            assert done.returncode == 0, done.stderr[-3000:] + (tmp_path / "agent.log").read_text()[-3000:]
    assert json.loads(done.stdout) == {
        "enrolled": [False, True],
        "node": controller.NODE,
        "version": __version__,
        "unit": "exit 0",
        "log": "hello\n0\n",
    }
