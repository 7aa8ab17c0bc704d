"""Uuids from an injected source of randomness, so that a simulation's are the same for the same seed."""

import random
import uuid

from milpa_ray.keys import Keys
from milpa_ray.store.port import Compare, Put, Store, Txn


def make_uuid(rng: random.Random) -> str:
    """A random (version 4) uuid as text."""
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))


async def ensure_cluster_uuid(store: Store, keys: Keys, rng: random.Random) -> str:
    """The cluster's uuid, made if it has none yet; ``rng`` must be fit for that.

    Raises:
        StoreUnavailable, StoreFull
    """
    while (known := await store.get(keys.uuid)) is None:
        await store.commit(Txn((Compare(keys.uuid, 0),), (Put(keys.uuid, make_uuid(rng).encode()),)))
    return known.value.decode()
