"""Servers for ``milpactl``: one of each sort for the whole run, emptied before each test."""

from collections.abc import Iterator

import pytest

from tests.cli.cluster import Cluster


@pytest.fixture(scope="session")
def _plain() -> Iterator[Cluster]:
    found = Cluster()
    yield found
    found.close()


@pytest.fixture
def cluster(_plain: Cluster) -> Cluster:
    """A server without TLS, empty."""
    _plain.clear()
    return _plain


@pytest.fixture(scope="session")
def secure_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A server with mutual TLS."""
    found = Cluster(tmp_path_factory.mktemp("certs"))
    yield found
    found.close()
