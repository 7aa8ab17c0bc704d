"""Ports of the domain besides the store: the cloud's compute and the node agents.

Adapters live in ``cloud/`` and ``nodeagent/``; ``shards/`` wires them in. One contract suite runs on every
implementation of a port.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
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
    16 KB). ``image`` is a boot image id; empty picks the cloud's own default.
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


class Compute(Protocol):
    """Port to a cloud's instances.

    Errors: ``CloudThrottled`` and ``CloudUnavailable`` (ask again with the same token), ``NoCapacity``,
    ``LaunchRejected``.
    """

    async def launch(self, call: LaunchCall) -> Sequence[Instance]:
        """Launches; idempotent by ``call.token``. May answer with fewer than ``count`` instances."""

    async def list_instances(self) -> Sequence[Instance]:
        """All instances tagged with our cluster's name, terminated ones for a while too. May lag behind launches."""

    async def terminate(self, instance_ids: Sequence[str]) -> Mapping[str, InstanceState]:
        """Terminates; idempotent. The new state by id; ids that the cloud does not know (any more) are left out."""


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
