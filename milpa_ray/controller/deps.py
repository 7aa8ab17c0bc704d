"""What controllers are built from: ports and settings, wired together in one place outside of this package."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from milpa_ray.api.meta import ObjectReference
from milpa_ray.clock import Clock
from milpa_ray.controller.committing import Lease
from milpa_ray.keys import Keys
from milpa_ray.limits import Limits
from milpa_ray.pki import CertificateAuthority
from milpa_ray.planner.choose import Offers
from milpa_ray.planner.firewall import FirewallPolicy
from milpa_ray.ports import AgentDialer, Compute, Firewall, NameLock
from milpa_ray.store.port import Store


@dataclass(frozen=True, slots=True)
class PodEnvironment:
    """What every pod of the cluster is told: its resolvers, its search path, and the registries that may be spoken to
    without valid TLS."""

    dns_servers: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    insecure_registries: tuple[str, ...] = ()


class Recorder(Protocol):
    """Takes events; never blocks and never fails its caller."""

    def record(self, involved: ObjectReference, status: str, message: str = "") -> None: ...


@dataclass(frozen=True, slots=True)
class ShardDeps:
    """What a shard is built from. ``lease`` makes a new lease keeper for each incarnation. ``offers`` is what can be
    launched, without what is full now. ``enrol``: agents get certificates of their own (TLS is on)."""

    store: Store
    keys: Keys
    clock: Clock
    rng: random.Random
    limits: Limits
    lease: Callable[[], Lease]
    dialer: AgentDialer
    recorder: Recorder
    offers: Offers
    enrol: bool = True
    environment: PodEnvironment = PodEnvironment()


@dataclass(frozen=True, slots=True)
class CoordinatorDeps:
    """What the coordinator is built from. ``authority`` signs the launch batches' bootstrap certificates; None: the
    agents serve without TLS. ``cloud_init`` reads the user's cloud-init file as it is now. ``volume_gib`` is the size
    of root volumes whose pod asks for none, or for less (0: the cloud's own). ``firewall`` is None where
    the cloud has none, ``name_lock`` where nobody else can use the cluster's name. ``label_instances``: instances get
    their pods' labels, for people who look at the cloud's console."""

    store: Store
    keys: Keys
    clock: Clock
    rng: random.Random
    limits: Limits
    lease: Callable[[], Lease]
    compute: Compute
    recorder: Recorder
    authority: CertificateAuthority | None = None
    cloud_init: Callable[[], str] = str
    volume_gib: int = 0
    firewall: Firewall | None = None
    firewall_policy: FirewallPolicy = field(default_factory=FirewallPolicy)
    name_lock: NameLock | None = None
    label_instances: bool = False
