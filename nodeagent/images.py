"""Images: pulled by skopeo, unpacked by umoci once per manifest digest into a cache that agents of one machine share.

``<cache>/<digest>/`` holds ``rootfs`` and the image's ``config.json``; it appears whole (by rename) or not at all, and
is only read afterwards. A file lock per digest keeps two agents from doing the same work. Nothing is ever removed
here: the cache's owner does that.
"""

import asyncio
import base64
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from milpa_ray.ports import RegistryLogin
from nodeagent.commands import CommandFailed, run
from nodeagent.image_ref import ImageRef, is_loopback, login_host
from nodeagent.state_dir import write_atomic

INSPECT_TIMEOUT_S = 60.0
PULL_TIMEOUT_S = 900.0
RETRY_AFTER_S = (1.0, 2.0)
"""Pauses between the tries of one pull; one try more than there are pauses."""


class ImageError(Exception):
    """The image cannot be had. ``str()`` names the image and the reason, fit for a user."""


@dataclass(frozen=True, slots=True)
class Image:
    """An unpacked image. ``config`` is the ``config`` object of its OCI image configuration."""

    digest: str
    rootfs: Path
    config: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Registries:
    """How registries are reached: see ``ImageRef.moved`` for ``localhost``; ``insecure`` hosts need no valid TLS."""

    localhost: str = ""
    insecure: frozenset[str] = frozenset()

    def verify_tls(self, ref: ImageRef) -> bool:
        if is_loopback(ref.host) or (self.localhost and ref.host == self.localhost):
            return False
        return ref.host not in self.insecure and ref.registry not in self.insecure


class ImageStore:
    """Gets images. ``scratch`` is a private directory for the short life of credential files."""

    def __init__(self, cache: Path, scratch: Path, registries: Registries = Registries()) -> None:
        self._cache = cache
        self._scratch = scratch
        self.registries = registries
        self._serial = 0

    def trust(self, hosts: Iterable[str]) -> None:
        """The pod's owner allows these registries to be spoken to without valid TLS, too."""
        known = self.registries
        self.registries = replace(known, insecure=known.insecure | frozenset(hosts))

    def find(self, digest: str) -> Image | None:
        """The unpacked image, without asking any registry."""
        home = self._cache / digest.replace(":", "-")
        try:
            config = json.loads((home / "config.json").read_bytes())
        except FileNotFoundError:
            return None
        return Image(digest, home / "rootfs", config.get("config") or {})

    async def pull(self, name: str, logins: Sequence[RegistryLogin] = ()) -> Image:
        """The image that ``name`` means at its registry now. What does not change by asking again (no such image, no
        permission) fails at once, the rest after a few tries.

        Raises:
            ImageError: see there.
        """
        try:
            asked = ImageRef.parse(name)
        except ValueError as error:
            raise ImageError(str(error)) from None
        for pause in (*RETRY_AFTER_S, None):
            try:
                return await self._pull_once(asked, logins)
            except CommandFailed as error:
                reason, final = _explain(name, asked, str(error))
                if final or pause is None:
                    raise ImageError(reason) from None
                await asyncio.sleep(pause)
        raise AssertionError("unreachable")

    async def _pull_once(self, asked: ImageRef, logins: Sequence[RegistryLogin]) -> Image:
        source = asked.moved(self.registries.localhost)
        async with self._access(asked, source, logins) as access:
            digest = asked.digest
            if not digest:
                manifest = await run("skopeo", "inspect", "--raw", *access, f"docker://{source}",
                                     timeout_s=INSPECT_TIMEOUT_S)  # fmt: skip
                digest = f"sha256:{hashlib.sha256(manifest).hexdigest()}"
            found = self.find(digest)
            if found is None:
                async with self._locked(digest):
                    found = self.find(digest) or await self._fetch(source.at(digest), digest, access)
        return found

    async def _fetch(self, source: ImageRef, digest: str, access: Sequence[str]) -> Image:
        home = self._cache / digest.replace(":", "-")
        work = self._cache / f".{home.name}.new"
        await asyncio.to_thread(shutil.rmtree, work, ignore_errors=True)
        work.mkdir(parents=True)
        try:
            options = [option.replace("--", "--src-", 1) for option in access]
            layout = f"{work}/layout"
            await run("skopeo", "copy", "-q", *options, f"docker://{source}", f"oci:{layout}:image",
                      timeout_s=PULL_TIMEOUT_S)  # fmt: skip
            await run(
                "umoci", "raw", "unpack", "--image", f"{layout}:image", f"{work}/rootfs", timeout_s=PULL_TIMEOUT_S
            )
            write_atomic(work / "config.json", _image_config(Path(layout)), 0o644)
            await asyncio.to_thread(shutil.rmtree, layout)
            os.rename(work, home)
        finally:
            await asyncio.to_thread(shutil.rmtree, work, ignore_errors=True)
        found = self.find(digest)
        if found is None:
            raise CommandFailed(f"image cache {self._cache}: {digest} is gone again")
        return found

    @asynccontextmanager
    async def _access(
        self, asked: ImageRef, source: ImageRef, logins: Sequence[RegistryLogin]
    ) -> AsyncIterator[Sequence[str]]:
        """Options that let skopeo in. Credentials go through a file that only we can read, never the command line."""
        auths = {}
        for login in logins:
            if login_host(login.server) in (asked.registry, asked.host):
                pair = base64.b64encode(f"{login.username}:{login.password}".encode()).decode()
                auths = {source.registry: {"auth": pair}}
                break
        self._serial += 1
        authfile = self._scratch / f"auth-{self._serial}.json"
        write_atomic(authfile, json.dumps({"auths": auths}).encode(), 0o600)
        try:
            verify = "true" if self.registries.verify_tls(source) else "false"
            yield [f"--authfile={authfile}", f"--tls-verify={verify}"]
        finally:
            authfile.unlink(missing_ok=True)

    @asynccontextmanager
    async def _locked(self, digest: str) -> AsyncIterator[None]:
        """The machine-wide lock of one digest. Polled, since a thread blocked in flock cannot be cancelled; it dies
        with its holder."""
        self._cache.mkdir(parents=True, exist_ok=True)
        path = self._cache / f".{digest.replace(':', '-')}.lock"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            deadline = asyncio.get_running_loop().time() + PULL_TIMEOUT_S
            while not _try_lock(descriptor):
                if asyncio.get_running_loop().time() > deadline:
                    raise CommandFailed(f"another agent holds the lock {path}")
                await asyncio.sleep(0.05)
            yield
        finally:
            os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _image_config(layout: Path) -> bytes:
    def blob(digest: str) -> bytes:
        return (layout / "blobs" / digest.replace(":", "/")).read_bytes()

    index = json.loads((layout / "index.json").read_bytes())
    manifest = json.loads(blob(index["manifests"][0]["digest"]))
    return blob(manifest["config"]["digest"])


_MISSING = ("manifest unknown", "name unknown", "repository name not known", "manifest invalid", "status 404")
_DENIED = ("unauthorized", "authentication required", "access to the resource is denied", "status 401", "status 403")
_WRONG_PLATFORM = ("no image found in manifest list", "no image found in image index")


def _explain(name: str, ref: ImageRef, text: str) -> tuple[str, bool]:
    """What the user is told, and whether asking again is pointless."""
    _, found, message = text.rpartition('msg="')
    message = message.rstrip('"').replace('\\"', '"') if found else text
    last = message.splitlines()[-1] if message else "no reason given"
    low = last.lower()
    if any(sign in low for sign in _MISSING):
        return f"image {name} not found: manifest unknown", True
    if any(sign in low for sign in _DENIED):
        hint = "the registry refuses the credentials, or the image needs an imagePullSecret"
        return f"image {name}: unauthorized: {hint} for {ref.registry}", True
    if any(sign in low for sign in _WRONG_PLATFORM):
        return f"image {name}: no image for this node's architecture", True
    if "pinging container registry" in low or "dial tcp" in low:
        cause = last.rpartition(": dial tcp" if ": dial tcp" in last else "/v2/")[2].strip(' :"')
        return f"image {name}: registry {ref.registry} cannot be reached: {cause}", False
    return f"image {name}: {last[-500:]}", "not installed" in low
