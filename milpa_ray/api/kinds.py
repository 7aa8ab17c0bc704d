"""The kinds there are, by every name a user may call them."""

from dataclasses import dataclass

from milpa_ray.api.meta import Resource
from milpa_ray.api.network import Endpoints, Service
from milpa_ray.api.node import Node
from milpa_ray.api.pod import Pod
from milpa_ray.api.records import Event, LogFile, Secret
from milpa_ray.api.workloads import Deployment, ReplicaSet


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind: class, canonical name, plural, abbreviations, and whether users may create it by manifest."""

    model: type[Resource]
    plural: str
    short: tuple[str, ...] = ()
    creatable: bool = True

    @property
    def name(self) -> str:
        return self.model.KIND


KINDS: tuple[Kind, ...] = (
    Kind(Pod, "pods", ("po",)),
    Kind(Node, "nodes", ("no",), creatable=False),
    Kind(Service, "services", ("svc",)),
    Kind(ReplicaSet, "replicasets", ("rs",)),
    Kind(Deployment, "deployments", ("deploy",)),
    Kind(Secret, "secrets"),
    Kind(Event, "events", ("ev",), creatable=False),
    Kind(LogFile, "logfiles", ("log",), creatable=False),
    Kind(Endpoints, "endpoints", ("ep",), creatable=False),
)

BY_NAME: dict[str, Kind] = {
    alias.lower(): kind for kind in KINDS for alias in (kind.name, kind.plural, kind.name + "s", *kind.short)
}


def find_kind(text: str) -> Kind | None:
    """The kind called ``text`` (canonical name, plural or abbreviation, any case), or None."""
    return BY_NAME.get(text.lower())
