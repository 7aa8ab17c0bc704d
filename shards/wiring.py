"""Builds the controllers from the settings: the one place where ports meet their implementations.

Each ``build_*`` is what an actor runs. It reads files and the store, so it may fail and be tried again.
"""

import asyncio
import random
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cloud.catalog import load_catalog
from cloud.local.client import LocalCompute
from milpa_ray.certs import ensure_ca, ensure_certs, read_pair
from milpa_ray.clock import SystemClock
from milpa_ray.controller.coordinator import Coordinator
from milpa_ray.controller.deps import CoordinatorDeps, PodEnvironment, ShardDeps
from milpa_ray.controller.identifiers import ensure_cluster_uuid
from milpa_ray.controller.shard import Shard
from milpa_ray.errors import Invalid
from milpa_ray.events import EventRecorder
from milpa_ray.keys import Keys
from milpa_ray.paths import Home
from milpa_ray.pki import CertificateAuthority
from milpa_ray.planner.catalogue import Catalogue
from milpa_ray.planner.choose import Offers
from milpa_ray.planner.volumes import gib
from milpa_ray.ports import CONTROLLER_IDENTITY, node_identity
from milpa_ray.server.api import ApiConfig, ApiServer, ServerTls
from milpa_ray.server.offers import CloudDefaults
from milpa_ray.settings import Settings
from milpa_ray.store.connection import EtcdConfig
from milpa_ray.store.etcd import EtcdStore
from milpa_ray.store.lease import ThreadLeaseKeeper
from nodeagent.client import GrpcDialer
from shards.actors import ActorConfig
from shards.aws_cloud import AwsCloud, aws_cloud, firewall_policy
from shards.gathering import controller_dumps
from shards.layout import read_settings
from shards.local_cloud import hypervisor_socket


def etcd_config(settings: Settings, endpoints: tuple[str, ...]) -> EtcdConfig:
    """The connection to etcd: ``endpoints``, with the TLS files of the settings."""
    client = settings.etcd.client
    return EtcdConfig(endpoints, client.ca_file, client.cert_file, client.key_file)


@dataclass(frozen=True, slots=True)
class Parts:
    """What every controller of a process shares."""

    config: ActorConfig
    settings: Settings
    home: Home
    keys: Keys
    etcd: EtcdConfig
    store: EtcdStore
    clock: SystemClock
    rng: random.Random
    authority: CertificateAuthority
    recorder: EventRecorder

    @classmethod
    async def open(cls, config: ActorConfig, source: str) -> "Parts":
        """Reads the settings and the cluster's CA. ``source`` names the component in its events.

        Raises:
            Invalid: the settings or the certificate folder are wrong. StoreUnavailable: the store does not answer.
        """
        home = Home(Path(config.home))
        settings = await asyncio.to_thread(read_settings, home, Path(config.config_file))
        keys = Keys(settings.cluster_name)
        etcd = etcd_config(settings, config.endpoints)
        store = EtcdStore(etcd)
        clock = SystemClock()
        try:
            authority = await ensure_ca(store, keys, clock, home.certs)
        except BaseException:
            await store.close()
            raise
        recorder = EventRecorder(store, keys, clock, source, ttl_s=settings.limits.event_ttl_s)
        recorder.start()
        return cls(config, settings, home, keys, etcd, store, clock, random.SystemRandom(), authority, recorder)

    def lease(self) -> ThreadLeaseKeeper:
        limits = self.settings.limits
        return ThreadLeaseKeeper(self.etcd, limits.lease_ttl_s, stall_s=limits.loop_stall_s)

    def dialer(self) -> GrpcDialer:
        """Dials agents as a controller of this cluster, and signs their own certificates."""
        authority = self.authority
        pair = authority.issue([CONTROLLER_IDENTITY], server=False, client=True)

        def sign(csr: bytes, node_name: str) -> bytes:
            return authority.sign_csr(csr, [node_identity(node_name)], server=True, client=False)

        timeout_s = self.settings.limits.call_timeout_s
        return GrpcDialer(authority.pair.cert, pair.cert, pair.key, sign, timeout_s)

    def catalogue(self) -> Catalogue:
        """Types, prices and zones of the settings' region, refreshed ones first."""
        return load_catalog(self.settings.cloud.region, self.home.catalog)

    async def aws(self) -> AwsCloud | None:
        """The ports to AWS, if that is the cloud."""
        if self.settings.cloud.aws is None:
            return None
        uuid = await ensure_cluster_uuid(self.store, self.keys, self.rng)
        catalogue = await asyncio.to_thread(self.catalogue)
        return aws_cloud(self.settings, self.settings.cloud.aws, uuid, catalogue, self.clock)

    def cloud_init(self) -> str:
        """The user's cloud-init file as it is now."""
        name = self.settings.nodes.cloud_init_file
        if not name:
            return ""
        try:
            return Path(name).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise Invalid(f"nodes.cloudInitFile: {name} cannot be read: {error}") from error

    async def close(self) -> None:
        await self.recorder.stop()
        await self.store.close()


@dataclass(slots=True)
class RunningShard:
    """A ``Controller`` around a shard."""

    parts: Parts
    shard: Shard

    async def run(self) -> None:
        await self.shard.run()

    def ready(self) -> bool:
        """Whether it serves a range of slots and has read it."""
        served = self.shard.dump()["range"]
        return served is not None and bool(served["synced"])

    def dump(self) -> Mapping[str, Any]:
        return self.shard.dump()

    async def close(self) -> None:
        await self.parts.close()


@dataclass(slots=True)
class RunningCoordinator:
    """A ``Controller`` around a candidate for coordinator."""

    parts: Parts
    coordinator: Coordinator
    aws: AwsCloud | None = None

    async def run(self) -> None:
        await self.coordinator.run()

    def ready(self) -> bool:
        """Always: one that follows another leader does its work, too."""
        return True

    def dump(self) -> Mapping[str, Any]:
        return self.coordinator.dump()

    async def close(self) -> None:
        if self.aws is not None:
            self.aws.close()
        await self.parts.close()


@dataclass(slots=True)
class RunningApi:
    """A ``Controller`` around an API server."""

    parts: Parts
    server: ApiServer

    async def run(self) -> None:
        await self.server.start()
        await asyncio.get_running_loop().create_future()

    def ready(self) -> bool:
        """Whether it listens and its cache has caught up once."""
        return self.server.port != 0 and self.server.state()["revision"] > 0

    def dump(self) -> Mapping[str, Any]:
        return {"port": self.server.port, **self.server.state()}

    async def close(self) -> None:
        await self.server.stop()
        await self.parts.close()


async def build_shard(config: ActorConfig) -> RunningShard:
    parts = await Parts.open(config, config.name)
    settings = parts.settings
    offers = Offers(await asyncio.to_thread(parts.catalogue), settings.nodes.default_instance_type)
    deps = ShardDeps(
        store=parts.store,
        keys=parts.keys,
        clock=parts.clock,
        rng=parts.rng,
        limits=settings.limits,
        lease=parts.lease,
        dialer=parts.dialer(),
        recorder=parts.recorder,
        offers=offers,
        environment=PodEnvironment(insecure_registries=tuple(settings.nodes.insecure_registries)),
    )
    return RunningShard(parts, Shard(deps, config.name))


async def build_coordinator(config: ActorConfig) -> RunningCoordinator:
    parts = await Parts.open(config, config.name)
    settings = parts.settings
    aws = await parts.aws()
    deps = CoordinatorDeps(
        store=parts.store,
        keys=parts.keys,
        clock=parts.clock,
        rng=parts.rng,
        limits=settings.limits,
        lease=parts.lease,
        compute=aws.compute if aws is not None else LocalCompute(hypervisor_socket(parts.home), settings.cluster_name),
        recorder=parts.recorder,
        authority=parts.authority,
        cloud_init=parts.cloud_init,
        volume_gib=gib(settings.nodes.default_volume_size),
        firewall=aws.firewall if aws is not None else None,
        firewall_policy=firewall_policy(settings.nodes),
        name_lock=aws.name_lock if aws is not None else None,
        label_instances=aws is not None,
    )
    return RunningCoordinator(parts, Coordinator(deps), aws)


async def build_api(config: ActorConfig) -> RunningApi:
    parts = await Parts.open(config, config.name)
    settings, certs = parts.settings, parts.home.certs
    names = [socket.gethostname(), *([config.host] if config.host else [])]
    await asyncio.to_thread(ensure_certs, certs, parts.authority, names)
    tls = None
    if config.tls:
        pair = await asyncio.to_thread(read_pair, certs, "server")
        tls = ServerTls(parts.authority.pair.cert, pair.cert, pair.key)
    listen = settings.controllers
    told = CloudDefaults(
        settings.cloud.region, settings.nodes.default_instance_type, settings.nodes.default_volume_size
    )
    api = ApiConfig(tls, listen.api_host, listen.api_port, settings.limits.event_ttl_s, config.name, told)
    server = ApiServer(
        parts.store, parts.keys, parts.dialer(), api, clock=parts.clock, dump_controllers=controller_dumps
    )
    return RunningApi(parts, server)
