"""Offers: what the cluster's instances are chosen from, so that a client can explain a choice with the same inputs."""

from dataclasses import dataclass

from milpa_ray.keys import Keys, prefix_end
from milpa_ray.proto import milpa_pb2 as pb
from milpa_ray.store.port import Store

MOST_FULL = 1000
"""Memories of failed launches that are told at most."""


@dataclass(frozen=True, slots=True)
class CloudDefaults:
    """The settings that count for a choice; empty where the server was not told. ``volume_size`` is a quantity."""

    region: str = ""
    instance_type: str = ""
    volume_size: str = ""


@dataclass(frozen=True, slots=True)
class OffersReader:
    """Answers Offers."""

    store: Store
    keys: Keys
    defaults: CloudDefaults

    async def offers(self) -> pb.OffersReply:
        """The settings, and what the cloud had no room for as the store knows it now."""
        capacity = self.keys.prefix("capacity")
        page = await self.store.scan(capacity, prefix_end(capacity), limit=MOST_FULL)
        return pb.OffersReply(
            region=self.defaults.region,
            default_instance_type=self.defaults.instance_type,
            default_volume_size=self.defaults.volume_size,
            full=[entry.value for entry in page.entries],
        )
