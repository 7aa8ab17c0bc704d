"""Pod: units that run together on a node of their own."""

from enum import StrEnum
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from milpa_ray.api.meta import Model, ObjectMeta, Resource, Time
from milpa_ray.api.quantity import AnyCase, Quantity


class PodPhase(StrEnum):
    WAITING = "Waiting"
    DISPATCHING = "Dispatching"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    TERMINATED = "Terminated"


class RestartPolicy(StrEnum):
    ALWAYS = "always"
    ON_FAILURE = "onFailure"
    NEVER = "never"


class SpotPolicy(StrEnum):
    ALWAYS = "always"
    PREFERRED = "preferred"
    NEVER = "never"


class NetworkAddress(Model):
    """``type`` is PrivateIP, PrivateDNS, PublicIP or PublicDNS."""

    type: str
    address: str


class ResourceSpec(Model):
    """What the pod needs of its node. Quantities are text (``"0.5"``, ``"2Gi"``); empty means not asked for."""

    cpu: Quantity = ""
    memory: Quantity = ""
    gpu: Quantity = ""
    gpu_name: str = ""
    volume_size: Quantity = ""
    dedicated_cpu: bool = Field(default=False, alias="dedicatedCPU")
    sustained_cpu: bool | None = Field(default=None, alias="sustainedCPU")
    private_ip_only: bool = Field(default=False, alias="privateIPOnly")
    arch: Annotated[str, AnyCase()] = ""


class PlacementSpec(Model):
    availability_zone: str = ""


class PodSpot(Model):
    policy: SpotPolicy = SpotPolicy.NEVER


class SecretKeySelector(Model):
    name: str
    key: str


class EnvVarSource(Model):
    secret_key_ref: SecretKeySelector | None = None


class EnvVar(Model):
    name: str
    value: str = ""
    value_from: EnvVarSource | None = None


class VolumeMount(Model):
    name: str
    mount_path: str


class Protocol(StrEnum):
    TCP = "TCP"
    UDP = "UDP"
    ICMP = "ICMP"


class UnitPort(Model):
    """A port of a unit (opened to the VPC in firewall mode ``Closed``) or of a Service.

    For ICMP, ``port`` is the message type, -1 for all of them. ``target_port`` is the unit's port when it differs from
    ``port``; ``node_port`` is the port behind a load balancer.
    """

    name: str = ""
    protocol: Protocol = Protocol.TCP
    port: int = Field(ge=-1, le=65535)
    node_port: int | None = Field(default=None, ge=1, le=65535)
    target_port: int | None = Field(default=None, ge=1, le=65535)


class Capabilities(Model):
    add: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()


class SecurityContext(Model):
    capabilities: Capabilities | None = None
    run_as_user: int | None = Field(default=None, ge=0)
    run_as_group: int | None = Field(default=None, ge=0)


class Sysctl(Model):
    name: str
    value: str


class PodSecurityContext(Model):
    run_as_user: int | None = Field(default=None, ge=0)
    run_as_group: int | None = Field(default=None, ge=0)
    supplemental_groups: tuple[int, ...] = ()
    sysctls: tuple[Sysctl, ...] = ()


class Unit(Model):
    name: str
    image: str
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    env: tuple[EnvVar, ...] = ()
    volume_mounts: tuple[VolumeMount, ...] = ()
    ports: tuple[UnitPort, ...] = ()
    working_dir: str = ""
    security_context: SecurityContext | None = None


class EmptyDir(Model):
    """Scratch space. ``size_limit`` is in MB and counts only for medium ``Memory``."""

    medium: Literal["", "Memory"] = ""
    size_limit: int | None = Field(default=None, ge=0)


class PackagePath(Model):
    path: str


class Volume(Model):
    name: str
    empty_dir: EmptyDir | None = None
    package_path: PackagePath | None = None


class PodSpec(Model):
    """Desired behaviour. ``phase`` is the wish: Running, or Terminated to stop it."""

    phase: PodPhase = PodPhase.RUNNING
    restart_policy: RestartPolicy = RestartPolicy.ALWAYS
    units: tuple[Unit, ...] = ()
    init_units: tuple[Unit, ...] = ()
    image_pull_secrets: tuple[str, ...] = ()
    instance_type: str = ""
    spot: PodSpot = PodSpot()
    resources: ResourceSpec = ResourceSpec()
    placement: PlacementSpec = PlacementSpec()
    volumes: tuple[Volume, ...] = ()
    security_context: PodSecurityContext | None = None


class UnitWaiting(Model):
    """Not started yet, or waiting out a restart back-off. ``start_failure`` marks a unit that cannot be started."""

    reason: str = ""
    start_failure: bool = False


class UnitRunning(Model):
    started_at: Time | None = None


class UnitTerminated(Model):
    """``exit_code`` is None when it could not be learnt."""

    exit_code: int | None = None
    reason: str = ""
    finished_at: Time | None = None


class UnitState(Model):
    """Exactly one of the three is set."""

    waiting: UnitWaiting | None = None
    running: UnitRunning | None = None
    terminated: UnitTerminated | None = None


class UnitStatus(Model):
    name: str
    image: str = ""
    restart_count: int = 0
    state: UnitState = UnitState()
    last_state: UnitState | None = None


class PodStatus(Model):
    """Last observed status.

    Ours, beyond the manual: ``reason`` and ``message`` say why the pod is in its phase; ``bound_node_uid`` names the
    node for good; ``dispatched_generation`` is the newest generation that the node's agent has acknowledged.
    """

    phase: PodPhase = PodPhase.WAITING
    last_phase_change: Time | None = None
    ready_time: Time | None = None
    bound_node_name: str = ""
    bound_node_uid: str = Field(default="", alias="boundNodeUID")
    bound_instance_id: str = Field(default="", alias="boundInstanceID")
    addresses: tuple[NetworkAddress, ...] = ()
    start_failures: int = 0
    spot_failure: bool = False
    unit_statuses: tuple[UnitStatus, ...] = ()
    init_unit_statuses: tuple[UnitStatus, ...] = ()
    reason: str = ""
    message: str = ""
    dispatched_generation: int = 0


class Pod(Resource):
    KIND: ClassVar[str] = "Pod"

    kind: str = "Pod"
    spec: PodSpec = Field(default_factory=PodSpec)
    status: PodStatus = PodStatus()


class PodTemplateSpec(Model):
    metadata: ObjectMeta = Field(default_factory=ObjectMeta)
    spec: PodSpec = Field(default_factory=PodSpec)
