"""Node: a cloud instance that runs one pod, or stands by for one."""

from enum import StrEnum
from typing import ClassVar

from pydantic import Field

from milpa_ray.api.meta import Model, Resource, Time
from milpa_ray.api.pod import NetworkAddress, PlacementSpec, ResourceSpec


class NodePhase(StrEnum):
    CREATING = "Creating"
    CREATED = "Created"
    AVAILABLE = "Available"
    CLAIMED = "Claimed"
    CLEANING = "Cleaning"
    TERMINATING = "Terminating"
    TERMINATED = "Terminated"


class NodeSpec(Model):
    """What to launch: complete, so that the executor has nothing left to choose. ``terminate`` is the wish to end.
    ``cpu_credits``: a burstable type's mode, ``standard`` or ``unlimited``; empty for types without credits."""

    instance_type: str = ""
    boot_image: str = ""
    terminate: bool = False
    spot: bool = False
    cpu_credits: str = ""
    resources: ResourceSpec = ResourceSpec()
    placement: PlacementSpec = PlacementSpec()


class NodeStatus(Model):
    """Last observed status.

    Ours, beyond the manual: ``pod_uid`` is the pod that the node was made for or is claimed by (``bound_pod_name``
    is its name); ``price_usd_hour`` is the price at launch, so that cost figures do not drift; ``identity`` tells
    which certificate the agent serves with: ``bootstrap`` (the batch's) or ``node`` (its own); ``batch`` is the
    launch batch's token; ``volume_gib`` is the root volume's size (0: the cloud's own choice); ``interruption_at``
    is when the cloud takes the instance back, once it has said so; ``reason`` and ``message`` say why the node ended.
    """

    phase: NodePhase = NodePhase.CREATING
    last_phase_change: Time | None = None
    instance_id: str = Field(default="", alias="instanceID")
    addresses: tuple[NetworkAddress, ...] = ()
    bound_pod_name: str = ""
    pod_uid: str = Field(default="", alias="podUID")
    price_usd_hour: float = Field(default=0.0, alias="priceUSDHour")
    identity: str = ""
    batch: str = ""
    volume_gib: int = Field(default=0, alias="volumeGiB")
    interruption_at: Time | None = None
    reason: str = ""
    message: str = ""


class Node(Resource):
    KIND: ClassVar[str] = "Node"

    kind: str = "Node"
    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()

    @property
    def private_ip(self) -> str:
        """The address that the controller dials; empty before the cloud has told it."""
        return next((a.address for a in self.status.addresses if a.type == "PrivateIP"), "")
