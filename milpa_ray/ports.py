"""Ports of the domain besides the store: the cloud's compute and network, and the node agents.

Adapters live in ``cloud/`` and ``nodeagent/``; ``shards/`` wires them in. One contract suite runs on every
implementation of a port.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    # The client reads a constant here, and must not pay for the models at every start.
    from milpa_ray.api.pod import Pod, UnitStatus


@dataclass(frozen=True, slots=True, order=True)
class Token:
    """Fencing token: the term, then the map's revision. A higher one deposes a lower one."""

    term: int
    revision: int


# ---------------------------------------------------------------- compute


@dataclass(frozen=True, slots=True)
class LaunchCall:
    """One complete launch of ``count`` equal instances. Stored before it is made, and sent again unchanged.

    ``token`` makes it idempotent: the same token launches nothing new and answers with the same instances. Every
    instance is tagged with ``tags`` and with the token. ``user_data`` is handed to the instance at boot (at most
    16 KB). ``credits`` is the CPU credit mode of a burstable type: ``standard``, ``unlimited``, or empty for types
    that have none. ``image``, ``subnet`` and ``security_groups`` are ids; ``Compute.prepare`` fills in what is empty.
    ``volume_gib`` is the root volume's size; 0 leaves it to the cloud.
    """

    token: str
    count: int
    instance_type: str
    zone: str
    spot: bool = False
    image: str = ""
    private_ip_only: bool = False
    volume_gib: int = 0
    user_data: bytes = b""
    tags: Mapping[str, str] = field(default_factory=dict)
    credits: str = ""
    subnet: str = ""
    security_groups: tuple[str, ...] = ()


class InstanceState(StrEnum):
    """EC2's instance states."""

    PENDING = "pending"
    RUNNING = "running"
    SHUTTING_DOWN = "shutting-down"
    TERMINATED = "terminated"
    STOPPING = "stopping"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Instance:
    """An instance as the cloud tells it. ``token`` and ``launch_index`` are its launch's (index 0 to count - 1).
    ``launched_at`` is seconds since the epoch."""

    id: str
    state: InstanceState
    token: str = ""
    launch_index: int = 0
    instance_type: str = ""
    zone: str = ""
    spot: bool = False
    private_ip: str = ""
    private_dns: str = ""
    public_ip: str = ""
    public_dns: str = ""
    launched_at: float = 0.0
    tags: Mapping[str, str] = field(default_factory=dict)
    security_groups: tuple[str, ...] = ()


class Compute(Protocol):
    """Port to a cloud's instances.

    Errors: ``CloudThrottled``, ``CloudUnavailable`` and ``CloudNotReady`` (ask again with the same token),
    ``NoCapacity``, ``LaunchRejected``, ``LaunchOutdated``.
    """

    async def prepare(self, call: LaunchCall) -> LaunchCall:
        """The call with all that the launch needs filled in: boot image, subnet, security groups. Done once, before
        the call is recorded, so that it can be sent unchanged however often. Launches nothing."""

    async def launch(self, call: LaunchCall) -> Sequence[Instance]:
        """Launches; idempotent by ``call.token``. May answer with fewer than ``count`` instances."""

    async def list_instances(self) -> Sequence[Instance]:
        """All instances tagged with our cluster's name, terminated ones for a while too. May lag behind launches."""

    async def terminate(self, instance_ids: Sequence[str]) -> Mapping[str, InstanceState]:
        """Terminates; idempotent. The new state by id; ids that the cloud does not know (any more) are left out."""

    async def label(self, tags: Mapping[str, Mapping[str, str]]) -> None:
        """Tags instances (by id) for people who look at them in the cloud's console, besides the tags of their launch;
        idempotent. Instances that the cloud does not know are passed over. A cloud without a console does nothing.

        Raises:
            Invalid: tags that no instance can have (their number, their names).
        """

    async def grow_volume(self, instance_id: str, gib: int) -> None:
        """Has the instance's root volume grow to ``gib``; idempotent, and never shrinks it. Returns once the cloud has
        accepted it; the file system is the agent's."""


# ---------------------------------------------------------------- network

OWN_NETWORK = "VPC"
"""As a source range: the address ranges of the network that the instances are in (the manual's word)."""


@dataclass(frozen=True, slots=True, order=True)
class Rule:
    """Lets traffic in. ``protocol`` is tcp, udp, icmp or all; ``low`` to ``high`` are the ports (of ICMP the type and
    the code, -1 for all; both -1 with ``all``). ``source`` is a range such as 10.0.0.0/16, or a group's id."""

    protocol: str
    low: int
    high: int
    source: str


class Firewall(Protocol):
    """Port to a cloud's packet filters. Groups hold rules, an instance is in a few groups, and what no rule of any of
    them lets in is dropped. Sees and touches only groups of our cluster (by its uuid).

    A group is named by what it is for, such as a Service; the adapter makes the cloud's own name of it.

    Errors: ``CloudThrottled``, ``CloudUnavailable``; ``CloudRefused``; ``Invalid`` for what exceeds a limit of the
    cloud, before anything is changed.
    """

    async def own_ranges(self) -> Sequence[str]:
        """What the source range ``VPC`` stands for."""

    async def node_groups(self) -> tuple[str, ...]:
        """Ids of the groups that every instance is launched with, made if they are not there. Asks the cloud once."""

    async def set_group(self, name: str, rules: Collection[Rule]) -> str:
        """Makes the group be there with exactly these rules: adds first, then revokes. Its id."""

    async def groups(self) -> Mapping[str, str]:
        """Our groups: the id by the name."""

    async def remove_group(self, name: str) -> bool:
        """Removes the group; False while something is in it. Idempotent."""

    async def assign(self, instance_id: str, group_ids: Collection[str]) -> None:
        """Puts the instance into exactly these groups. An instance that is gone is left alone."""


@dataclass(frozen=True, slots=True, order=True)
class DnsRecord:
    """``name`` is relative to the cluster's zone, such as web.default; ``type`` is A or SRV; ``ttl_s`` in seconds."""

    name: str
    type: str
    values: tuple[str, ...]
    ttl_s: int


class Dns(Protocol):
    """Port to the cluster's private zone. Errors: ``CloudThrottled``, ``CloudUnavailable``, ``CloudRefused``."""

    async def set_records(self, wanted: Collection[DnsRecord], *, look: bool = False) -> None:
        """Makes the zone's A and SRV records be exactly these; makes the zone if it is not there.

        ``look`` asks the cloud first what there is (after a takeover, and now and then); else what the last call left
        is trusted. Calls that come while one is under way are one call afterwards, for the newest of them.
        """

    async def remove_zone(self) -> None:
        """Removes the zone with all its records. Idempotent."""


@dataclass(frozen=True, slots=True, order=True)
class Listener:
    """Takes connections at ``port`` and hands them to the instances' ``target_port``. Protocols are tcp, ssl, http or
    https; ``certificate`` is the id of one, for ssl and https."""

    port: int
    protocol: str
    target_port: int
    target_protocol: str
    certificate: str = ""


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """``target`` is a protocol with a port, such as TCP:8080; the rest in seconds, and in checks on end."""

    target: str
    interval_s: int = 10
    timeout_s: int = 5
    unhealthy_threshold: int = 6
    healthy_threshold: int = 2


@dataclass(frozen=True, slots=True)
class BalancerOptions:
    """``access_log_bucket`` empty: no access logs. ``draining_s`` 0: no connection draining."""

    access_log_bucket: str = ""
    access_log_prefix: str = ""
    access_log_interval_min: int = 60
    draining_s: int = 0
    idle_timeout_s: int = 60
    cross_zone: bool = False


@dataclass(frozen=True, slots=True)
class LoadBalancer:
    """A load balancer as it is wanted. ``name`` is its Service's. ``internal``: reachable in the own network only.
    ``security_groups`` are ids."""

    name: str
    listeners: tuple[Listener, ...]
    health_check: HealthCheck
    instances: frozenset[str] = frozenset()
    security_groups: tuple[str, ...] = ()
    internal: bool = True
    options: BalancerOptions = BalancerOptions()
    tags: Mapping[str, str] = field(default_factory=dict)


class LoadBalancers(Protocol):
    """Port to a cloud's load balancers. Sees and touches only those of our cluster (by its uuid).

    Errors: ``CloudThrottled``, ``CloudUnavailable``; ``CloudRefused``; ``Invalid`` for what exceeds a limit.
    """

    async def balancers(self) -> Mapping[str, str]:
        """Our load balancers: the DNS name by the Service's name."""

    async def set_balancer(self, wanted: LoadBalancer) -> str:
        """Makes it be there and be exactly like this; its DNS name. One that turns internal or public is made anew."""

    async def remove_balancer(self, name: str) -> None:
        """Removes it. Idempotent."""


class NameLock(Protocol):
    """Port to the register of cluster names, so that no two installations manage the same tags. ``owner`` is the
    cluster's uuid: all controllers of one cluster hold the name together."""

    async def hold(self, owner: str) -> None:
        """Takes the name, or renews the hold on it; to be called every ``RENEW_NAME_S``.

        Raises:
            NameTaken: another cluster has it. CloudThrottled, CloudUnavailable
        """

    async def release(self, owner: str) -> None:
        """Gives the name back, if ``owner`` has it. Idempotent."""


RENEW_NAME_S = 60.0
"""Interval at which a cluster renews the hold on its name."""


# ---------------------------------------------------------------- agents


@dataclass(frozen=True, slots=True)
class RegistryLogin:
    """Credentials for one registry host."""

    server: str
    username: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class DesiredPod:
    """All that an agent needs to run a pod. ``env`` of the units is resolved: no ``valueFrom`` is left.
    ``insecure_registries`` are hosts that may be spoken to without valid TLS."""

    pod: Pod
    logins: tuple[RegistryLogin, ...] = ()
    dns_servers: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    insecure_registries: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Hello:
    """Who answers. ``pod_uid`` is the pod that the agent holds (running, ended or stopped), empty if none;
    ``generation`` its newest; ``stopped`` says that the pod was stopped by request and none of its units runs."""

    node_name: str
    version: str
    pod_uid: str = ""
    generation: int = 0
    stopped: bool = False
    enrolled: bool = False


@dataclass(frozen=True, slots=True)
class AgentReport:
    """One message of the agent's watch stream: a heartbeat, or the whole status after a change.

    ``sequence`` counts the changes of the status since the agent started; ``units`` is None in a heartbeat that
    repeats a known sequence. ``stopped`` as in ``Hello``. ``interruption_at``: when the cloud takes the instance back,
    once it has said so.
    """

    sequence: int
    pod_uid: str = ""
    generation: int = 0
    units: tuple[UnitStatus, ...] | None = None
    init_units: tuple[UnitStatus, ...] = ()
    stopped: bool = False
    interruption_at: datetime | None = None


class Agent(Protocol):
    """Port to one node's agent. Calls that change something carry the owner's token.

    Errors: ``AgentUnreachable``, ``AgentRefused``, ``StaleToken``.
    """

    async def hello(self, token: Token) -> Hello:
        """Announces the owner; the agent refuses lower tokens from then on."""

    async def enroll(self, token: Token, node_name: str) -> None:
        """Has the agent make a key of its own and gives it the certificate for this node; afterwards the bootstrap
        certificate opens nothing there and this connection must be dialled anew."""

    async def dispatch(self, token: Token, desired: DesiredPod) -> None:
        """Hands over the pod; idempotent by uid and generation. Returns once the agent has it on disk."""

    def watch(self) -> AsyncIterator[AgentReport]:
        """The whole status at once, then each change, and a heartbeat every 10 s. Ends by ``AgentUnreachable``."""

    async def stop(self, token: Token, pod_uid: str, grace_s: float) -> None:
        """Stops the pod's units and waits for their end. Idempotent; a stopped pod is never started again there. An
        agent that has never seen the pod remembers the uid and refuses it from then on."""

    def logs(self, unit: str, *, lines: int = 0, limit_bytes: int = 0, follow: bool = False) -> AsyncIterator[bytes]:
        """The log of a unit (of the agent itself when ``unit`` is empty): the last ``lines`` lines or ``limit_bytes``
        bytes (0: no limit), then, with ``follow``, what comes after until the unit ends for good."""

    async def close(self) -> None:
        """Ends the channel."""


@dataclass(frozen=True, slots=True)
class AgentAddress:
    """Where and as whom an agent is dialled. ``identity`` is the TLS name it must prove."""

    host: str
    identity: str
    port: int = 0


class AgentDialer(Protocol):
    """Makes agent clients. Cheap: nothing is sent before the first call."""

    def dial(self, address: AgentAddress) -> Agent:
        """A client for the agent at ``address``; many may exist at a time."""


def bootstrap_identity(batch: str) -> str:
    """TLS name of the certificate that a launch batch's agents first serve with."""
    return f"{batch}.boot.milpa"


def node_identity(node_name: str) -> str:
    """TLS name of a node's own certificate."""
    return f"{node_name}.node.milpa"


CONTROLLER_IDENTITY = "controller.milpa"
"""TLS name (SAN) of the certificate that controllers show to agents; agents accept calls from no other."""

CLIENT_IDENTITY = "client.milpa"
"""TLS name of the certificate that milpactl and the Python client show to API servers; no other opens them."""

API_SERVER_IDENTITY = "server.milpa"
"""TLS name that every API server's certificate has besides its host names; clients verify this one."""

AGENT_PORT = 6421
"""Port of the agents' gRPC service on every instance (the manual's system uses the same)."""
