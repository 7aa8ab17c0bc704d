"""Fixtures of the API server's tests. ``store`` is each kind of store in turn; ``memory`` only the quick one."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from milpa_ray.store.connection import EtcdConfig
from milpa_ray.store.etcd import EtcdStore
from milpa_ray.store.memory import MemoryStore
from milpa_ray.store.port import Store
from tests.server.serving import Served, serving


@pytest.fixture(params=["memory", pytest.param("etcd", marks=pytest.mark.integration)])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    made: Store
    if request.param == "memory":
        made = MemoryStore()
    else:
        made = EtcdStore(EtcdConfig((request.getfixturevalue("etcd_endpoint"),)))
    yield made
    await made.close()


@pytest.fixture
async def served(store: Store, tmp_path: Path) -> AsyncIterator[Served]:
    """A server on each kind of store."""
    async with serving(store, tmp_path) as found:
        yield found


@pytest.fixture
async def memory(tmp_path: Path) -> AsyncIterator[Served]:
    """A server on the store in memory, for what does not depend on the store."""
    async with serving(MemoryStore(), tmp_path) as found:
        yield found
