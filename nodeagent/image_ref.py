"""Image names as Docker users write them, and where they are really pulled from. Pure text; no network."""

import re
from dataclasses import dataclass
from ipaddress import ip_address

DEFAULT_REGISTRY = "docker.io"
_PATH = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_REGISTRY = re.compile(r"([A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-fA-F:]+\])(:[0-9]{1,5})?")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class ImageRef:
    """``registry`` is host or host:port. A reference with a digest has no tag: the digest says it all."""

    registry: str
    path: str
    tag: str
    digest: str = ""

    @classmethod
    def parse(cls, text: str) -> "ImageRef":
        """Docker's conventions: ``nginx`` is ``docker.io/library/nginx:latest``.

        Raises:
            ValueError: ``text`` is no image name; says why.
        """
        name, _, digest = text.strip().partition("@")
        if digest and not _DIGEST.fullmatch(digest):
            raise ValueError(f"image {text!r}: the digest must be sha256: and 64 hex digits")
        head, slash, rest = name.partition("/")
        if slash and ("." in head or ":" in head or head == "localhost"):
            registry = "docker.io" if head in ("index.docker.io", "registry-1.docker.io") else head
        else:
            registry, rest = DEFAULT_REGISTRY, name
        if not _REGISTRY.fullmatch(registry):
            raise ValueError(f"image {text!r}: {registry!r} is no registry (host or host:port)")
        path, colon, tag = rest.partition(":")
        if colon and not _TAG.fullmatch(tag):
            raise ValueError(f"image {text!r}: {tag!r} is no tag")
        if registry == DEFAULT_REGISTRY and "/" not in path:
            path = f"library/{path}"
        if not _PATH.fullmatch(path):
            lower = " (repository names are lower case)" if path != path.lower() else ""
            raise ValueError(f"image {text!r}: {path!r} is no repository name{lower}")
        return cls(registry, path, "" if digest else tag or "latest", digest)

    @property
    def host(self) -> str:
        """The registry without its port."""
        return _split_port(self.registry)[0]

    def at(self, digest: str) -> "ImageRef":
        """The same repository, this very manifest."""
        return ImageRef(self.registry, self.path, "", digest)

    def moved(self, localhost: str) -> "ImageRef":
        """Where ``localhost`` names another machine's loopback (the user's), the same port is asked at ``localhost``'s
        stand-in. Other registries stay; so does everything when the stand-in is empty."""
        host, port = _split_port(self.registry)
        if not localhost or host not in ("localhost", "127.0.0.1"):
            return self
        return ImageRef(f"{localhost}:{port}" if port else localhost, self.path, self.tag, self.digest)

    def __str__(self) -> str:
        return f"{self.registry}/{self.path}" + (f"@{self.digest}" if self.digest else f":{self.tag}")


def is_loopback(host: str) -> bool:
    """Docker's rule: registries on loopback may speak plain HTTP."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def login_host(server: str) -> str:
    """The registry that a secret's ``server`` means: a URL, a host, or Docker Hub's old index address."""
    host = server.strip().removeprefix("https://").removeprefix("http://").partition("/")[0]
    return DEFAULT_REGISTRY if host in ("index.docker.io", "registry-1.docker.io", "hub.docker.com", "") else host


def _split_port(registry: str) -> tuple[str, str]:
    host, colon, port = registry.rpartition(":")
    return (host, port) if colon and port.isdigit() else (registry, "")
