"""API types: every kind and field of the manual's "Milpa API types"."""

from milpa_ray.api.kinds import KINDS, Kind, find_kind
from milpa_ray.api.meta import API_VERSION, Model, ObjectMeta, ObjectReference, Resource
from milpa_ray.api.network import Endpoints, Service
from milpa_ray.api.node import Node, NodePhase
from milpa_ray.api.pod import Pod, PodPhase, RestartPolicy, SpotPolicy, Unit
from milpa_ray.api.records import Event, LogFile, Secret
from milpa_ray.api.workloads import Deployment, ReplicaSet

__all__ = [
    "API_VERSION",
    "KINDS",
    "Deployment",
    "Endpoints",
    "Event",
    "Kind",
    "LogFile",
    "Model",
    "Node",
    "NodePhase",
    "ObjectMeta",
    "ObjectReference",
    "Pod",
    "PodPhase",
    "ReplicaSet",
    "Resource",
    "RestartPolicy",
    "Secret",
    "Service",
    "SpotPolicy",
    "Unit",
    "find_kind",
]
