"""Offers: clients get the settings and the memory of full capacity by which the controllers choose."""

from milpa_ray.client import AsyncClient, ClusterOffers
from milpa_ray.controller.capacity import capacity_put, decode_capacity
from milpa_ray.errors import CapacityScope
from milpa_ray.planner.fullness import FullRecord
from milpa_ray.ports import LaunchCall
from milpa_ray.server.api import ApiConfig, ApiServer
from milpa_ray.server.offers import CloudDefaults
from milpa_ray.store.memory import MemoryStore
from milpa_ray.store.port import Txn
from tests.server.serving import new_keys


async def test_offers_are_the_settings_and_what_is_full_now() -> None:
    store, keys = MemoryStore(), new_keys()
    told = CloudDefaults("eu-west-1", "t3.small", "8Gi")
    server = ApiServer(store, keys, None, ApiConfig(None, "127.0.0.1", 0, cloud=told))  # type: ignore[arg-type]
    await server.start()
    call = LaunchCall("token", 1, "c6a.large", zone="eu-west-1a", spot=True)
    try:
        async with AsyncClient([f"127.0.0.1:{server.port}"], tls=False) as client:
            assert await client.offers() == ClusterOffers("eu-west-1", "t3.small", "8Gi")
            lease = await store.lease_grant(60)
            await store.commit(Txn(ops=(capacity_put(keys, call, CapacityScope.TYPE, lease),)))
            (stored,) = (await client.offers()).full
        assert decode_capacity("", stored) == FullRecord(CapacityScope.TYPE, True, "c6a.large", "eu-west-1a")
    finally:
        await server.stop()
        await store.close()
