"""ReplicaSet and Deployment: pods in numbers."""

from enum import StrEnum
from typing import ClassVar

from pydantic import Field

from milpa_ray.api.meta import Model, Resource
from milpa_ray.api.pod import PodTemplateSpec


class ReplicaSetSpec(Model):
    replicas: int = Field(default=1, ge=0)
    template: PodTemplateSpec = Field(default_factory=PodTemplateSpec)


class ReplicaSetStatus(Model):
    replicas: int = 0
    available_replicas: int = 0


class ReplicaSet(Resource):
    KIND: ClassVar[str] = "ReplicaSet"

    kind: str = "ReplicaSet"
    spec: ReplicaSetSpec = Field(default_factory=ReplicaSetSpec)
    status: ReplicaSetStatus = ReplicaSetStatus()


class DeploymentPhase(StrEnum):
    PROGRESSING = "progressing"
    AVAILABLE = "available"


class DeploymentSpec(Model):
    replicas: int = Field(default=1, ge=0)
    template: PodTemplateSpec = Field(default_factory=PodTemplateSpec)
    paused: bool = False
    max_unavailable: int = Field(default=1, ge=0)
    max_surge: int = Field(default=1, ge=0)


class DeploymentStatus(Model):
    replicas: int = 0
    phase: DeploymentPhase | None = None
    updated_replicas: int = 0
    available_replicas: int = 0
    unavailable_replicas: int = 0


class Deployment(Resource):
    KIND: ClassVar[str] = "Deployment"

    kind: str = "Deployment"
    spec: DeploymentSpec = Field(default_factory=DeploymentSpec)
    status: DeploymentStatus = DeploymentStatus()
