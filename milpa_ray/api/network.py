"""Service and Endpoints: firewall, discovery and load balancing for selected pods."""

from enum import StrEnum
from typing import Any, ClassVar

from pydantic import Field

from milpa_ray.api.meta import Model, ObjectReference, Resource
from milpa_ray.api.pod import Protocol, UnitPort


class SelectorOperator(StrEnum):
    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


class SelectorRequirement(Model):
    """Set-based requirement. ``values`` goes with In and NotIn only."""

    key: str
    operator: SelectorOperator
    values: tuple[str, ...] = ()


class LabelSelector(Model):
    """In manifests a plain map of labels stands for ``matchLabels``."""

    match_labels: dict[str, str] = Field(default_factory=dict)
    match_expressions: tuple[SelectorRequirement, ...] = ()

    @classmethod
    def from_manifest(cls, value: dict[str, Any]) -> dict[str, Any]:
        """A label may itself be called ``matchLabels``: only text values make the map a plain one."""
        if value and not any(isinstance(value.get(name), dict | list) for name in ("matchLabels", "matchExpressions")):
            return {"matchLabels": value}
        return value


class ServiceType(StrEnum):
    CLUSTER = ""
    LOAD_BALANCER = "LoadBalancer"


class ServiceSpec(Model):
    type: ServiceType = ServiceType.CLUSTER
    selector: LabelSelector = Field(default_factory=LabelSelector)
    ports: tuple[UnitPort, ...] = ()
    source_ranges: tuple[str, ...] = ()


class LoadBalancerStatus(Model):
    dns_name: str = ""
    ip: str = ""


class ServiceStatus(Model):
    load_balancer: LoadBalancerStatus | None = None


class Service(Resource):
    KIND: ClassVar[str] = "Service"

    kind: str = "Service"
    spec: ServiceSpec = Field(default_factory=ServiceSpec)
    status: ServiceStatus = ServiceStatus()


class EndpointAddress(Model):
    ip: str = ""
    hostname: str = ""
    instance_id: str = Field(default="", alias="instanceID")
    node_name: str = ""
    target_ref: ObjectReference | None = None


class EndpointPort(Model):
    name: str = ""
    port: int = 0
    protocol: Protocol = Protocol.TCP


class EndpointSubset(Model):
    addresses: tuple[EndpointAddress, ...] = ()
    ports: tuple[EndpointPort, ...] = ()


class Endpoints(Resource):
    KIND: ClassVar[str] = "Endpoints"

    kind: str = "Endpoints"
    subsets: tuple[EndpointSubset, ...] = ()
