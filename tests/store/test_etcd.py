from collections.abc import AsyncIterator

import pytest

from milpa_ray.store.connection import EtcdConfig
from milpa_ray.store.etcd import EtcdStore, marks_exact
from milpa_ray.store.port import Store
from tests.store.contract import StoreContract, root

__all__ = ["root"]


@pytest.fixture
async def store(etcd_endpoint: str) -> AsyncIterator[Store]:
    store = EtcdStore(EtcdConfig((etcd_endpoint,)), exact_marks=True)
    yield store
    await store.close()


@pytest.mark.integration
class TestEtcdStore(StoreContract):
    pass


@pytest.mark.parametrize(
    ("version", "exact"),
    [("3.4.23", False), ("3.4.25", True), ("3.5.7", False), ("3.5.8", True), ("3.6.0-rc.1", True), ("?", False)],
)
def test_old_releases_marks_are_not_trusted(version: str, exact: bool) -> None:
    assert marks_exact(version) is exact
