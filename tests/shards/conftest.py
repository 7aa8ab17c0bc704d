"""One Ray cluster for all tests that need it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from milpa_ray.paths import Home
from shards.ray_cluster import RayCluster


@pytest.fixture(scope="session")
def ray_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    """A running head of a home of its own."""
    cluster = RayCluster(Home(Path(tmp_path_factory.mktemp("home"))))
    try:
        cluster.start_head()
        yield cluster
    finally:
        cluster.stop()
    assert cluster.processes() == []
    assert not cluster.temp_dir.exists()
