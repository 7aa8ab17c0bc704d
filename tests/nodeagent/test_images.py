"""Pulling from a real registry into the shared cache."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from milpa_ray.ports import RegistryLogin
from nodeagent.image_ref import ImageRef
from nodeagent.images import ImageError, ImageStore, Registries
from tests.oci import Registry, build_busybox_image, free_port, running_registry

pytestmark = pytest.mark.integration

PASSWORD = "s3cret:word"
HTPASSWD = "user:$2b$04$abcdefghijklmnopqrstuuHR3t7FUNT1H99nlAQFD.ZD8cnc5Jsi2\n"  # its bcrypt hash


def store(folder: Path, registries: Registries = Registries()) -> ImageStore:
    scratch = folder / "scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    return ImageStore(folder / "cache", scratch, registries)


async def test_pulled_once_and_found_by_digest(tmp_path: Path, image: str) -> None:
    images = store(tmp_path)
    first = await images.pull(image)
    assert (first.rootfs / "bin/busybox").exists()
    assert first.config["Cmd"] == ["sh"]
    inode = first.rootfs.stat().st_ino
    again = await store(tmp_path).pull(image)
    assert again.rootfs.stat().st_ino == inode
    by_digest = await images.pull(f"{image.rpartition(':')[0]}@{first.digest}")
    assert by_digest == first
    assert images.find(first.digest) == first
    assert list((tmp_path / "scratch").iterdir()) == []


async def test_a_moved_tag_is_noticed(tmp_path: Path, registry: Registry, image_source: str, image: str) -> None:
    name = registry.push(image_source, "test/moving:1")
    images = store(tmp_path)
    before = await images.pull(name)
    registry.push(build_busybox_image(tmp_path / "other", ("--config.cmd", "ls")), "test/moving:1")
    after = await images.pull(name)
    assert (before.config["Cmd"], after.config["Cmd"]) == (["sh"], ["ls"])


async def test_localhost_stands_for_another_machine(tmp_path: Path, registry: Registry, image: str) -> None:
    images = store(tmp_path, Registries(localhost="127.0.0.9"))
    name = image.replace("127.0.0.1", "localhost")
    with pytest.raises(ImageError, match=r"cannot be reached: 127\.0\.0\.9:.*refused"):
        await images.pull(name)
    assert await store(tmp_path, Registries(localhost="127.0.0.1")).pull(name)


async def test_missing_image_fails_at_once_and_a_dead_registry_after_retries(
    tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []

    async def no_pause(seconds: float) -> None:
        pauses.append(seconds)

    images = store(tmp_path)
    monkeypatch.setattr("nodeagent.images.asyncio.sleep", no_pause)
    with pytest.raises(ImageError, match=r"image .*/test/none:1 not found: manifest unknown"):
        await images.pull(f"{registry.host}/test/none:1")
    assert pauses == []
    port = free_port()
    with pytest.raises(ImageError, match=f"registry 127.0.0.1:{port} cannot be reached: .*connection refused"):
        await images.pull(f"127.0.0.1:{port}/a/b")
    assert pauses == [1.0, 2.0]
    with pytest.raises(ImageError, match="no repository name"):
        await images.pull("No Name")


async def test_credentials_let_in_and_are_told_nobody(tmp_path: Path, image_source: str) -> None:
    with running_registry(tmp_path / "private", htpasswd=HTPASSWD) as private:
        name = private.push(image_source, "secret/app:1", f"user:{PASSWORD}")
        images = store(tmp_path)
        wrong = RegistryLogin(private.host, "user", "wrong-word")
        for logins in ((), (wrong,), (RegistryLogin("quay.io", "user", PASSWORD),)):
            with pytest.raises(ImageError, match="unauthorized: the registry refuses") as caught:
                await images.pull(name, logins)
            assert "word" not in str(caught.value)
        found = await images.pull(name, [RegistryLogin(f"http://{private.host}/", "user", PASSWORD)])
        assert found.config["Cmd"] == ["sh"]
    assert list((tmp_path / "scratch").iterdir()) == []


PULL = """
import asyncio, sys
from pathlib import Path
from nodeagent.images import ImageStore
scratch = Path(sys.argv[2]); scratch.mkdir()
print(asyncio.run(ImageStore(Path(sys.argv[1]), scratch).pull(sys.argv[3])).rootfs)
"""


def test_processes_share_one_cache_and_leftovers_of_a_crash_do_no_harm(tmp_path: Path, image: str) -> None:
    digest = asyncio.run(store(tmp_path / "probe").pull(image)).digest.replace(":", "-")
    cache = tmp_path / "cache"
    half = cache / f".{digest}.new" / "rootfs"
    half.mkdir(parents=True)
    (half / "junk").touch()
    argv = [[sys.executable, "-c", PULL, str(cache), str(tmp_path / f"s{n}"), image] for n in range(3)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE) for command in argv]
    found = {process.communicate(timeout=60)[0].decode().strip() for process in running}
    assert found == {str(cache / digest / "rootfs")}
    assert not (cache / digest / "rootfs" / "junk").exists()
    assert sorted(path.name for path in cache.iterdir()) == [f".{digest}.lock", digest]


def test_registries_that_the_pods_owner_trusts_need_no_tls(tmp_path: Path) -> None:
    ref = ImageRef.parse("registry.example:5000/team/app")
    images = store(tmp_path)
    assert images.registries.verify_tls(ref)
    images.trust(["registry.example:5000"])
    assert not images.registries.verify_tls(ref)
    assert images.registries.verify_tls(ImageRef.parse("other.example/team/app"))
