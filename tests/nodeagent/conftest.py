"""Fixtures of the node agent's tests: one registry with one image for all."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.nodeagent.agents import RunningAgent, running_agent
from tests.oci import Registry, build_busybox_image, running_registry


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with running_registry(tmp_path_factory.mktemp("registry")) as found:
        yield found


@pytest.fixture(scope="session")
def image_source(tmp_path_factory: pytest.TempPathFactory) -> str:
    """skopeo name of a busybox image."""
    return build_busybox_image(tmp_path_factory.mktemp("image") / "layout")


@pytest.fixture(scope="session")
def image(registry: Registry, image_source: str) -> str:
    """Name of a busybox image in the registry."""
    return registry.push(image_source, "test/busybox:1")


@pytest.fixture(scope="session")
def image_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def agent(tmp_path: Path, image_cache: Path) -> Iterator[RunningAgent]:
    """A fresh agent without TLS that shares the session's image cache."""
    with running_agent(tmp_path, "--image-cache", str(image_cache)) as found:
        yield found
