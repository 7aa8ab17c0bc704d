"""What ``explain`` explains: pods and pod templates, from flags, from manifests or from the server."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cli.kinds import Target
from cli.output.objects import Document
from cli.reporting import CommandFailed, UsageError

if TYPE_CHECKING:
    from milpa_ray.api import Resource
    from milpa_ray.api.pod import PodSpec
    from milpa_ray.client import Client

EXPLAINED = ("Pod", "ReplicaSet", "Deployment")
"""Kinds that have a pod's spec."""
FLAGS: dict[tuple[str, ...], str] = {
    ("resources", "cpu"): "--cpu",
    ("resources", "memory"): "--memory",
    ("resources", "gpu"): "--gpu",
    ("resources", "gpuName"): "--gpu-name",
    ("resources", "dedicatedCPU"): "--dedicated",
    ("resources", "sustainedCPU"): "--sustained",
    ("resources", "arch"): "--arch",
    ("resources", "volumeSize"): "--volume-size",
    ("resources", "privateIPOnly"): "--private-ip-only",
    ("instanceType",): "--instance-type",
    ("spot", "policy"): "--spot",
    ("placement", "availabilityZone"): "--zone",
}
"""The flag for each field of a pod's spec that counts for its instance."""


@dataclass(frozen=True, slots=True)
class Subject:
    """One thing to explain. ``label`` as in ``pod/web``, empty for a request made of flags. ``pods`` is how many of it
    are wanted. ``status`` and ``node`` are a stored pod's; empty for all else."""

    label: str
    kind: str
    name: str
    spec: "PodSpec"
    pods: int = 1
    status: Document | None = None
    node: Document | None = None


_IN_FLAGS = {
    "spec.placement.availabilityZone": "--zone",
    "spec.instanceType": "--instance-type",
    "without dedicatedCPU": "without --dedicated",
    "without 'sustainedCPU: false'": "without '--sustained false'",
    "would with arch ": "would with --arch ",
}
"""Words of the planner's remedies, and what they are called on the command line."""


def in_flags(text: str) -> str:
    """A remedy for who has asked by flags."""
    for words, flag in _IN_FLAGS.items():
        text = text.replace(words, flag)
    return text


def from_flags(given: Mapping[str, Any]) -> Subject:
    """The request that flags describe; ``given`` has the value of each flag that was used.

    Raises:
        UsageError: a value is none; the message names the flag.
    """
    from milpa_ray.api.manifest import ManifestErrors, load_object

    spec: Document = {"units": [{"name": "any", "image": "any"}]}
    for path, flag in FLAGS.items():
        if flag in given:
            inner = spec
            for key in path[:-1]:
                inner = inner.setdefault(key, {})
            inner[path[-1]] = given[flag]
    try:
        pod = load_object({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "request"}, "spec": spec})
    except ManifestErrors as bad:
        named = {("spec", *path): flag for path, flag in FLAGS.items()}
        told = [f"{named.get(tuple(map(str, error.path)), error.field)}: {error.reason}" for error in bad.errors]
        raise UsageError("; ".join(told)) from None
    return Subject("", "", "", _spec(pod))


def from_manifests(files: Sequence[str], *, recursive: bool) -> list[Subject]:
    """Every pod and pod template of the manifests, in order.

    Raises:
        CommandFailed: a file cannot be read or is wrong, or there is no pod in any.
    """
    from cli.manifests import load_objects

    found = [_subject(obj) for obj in load_objects(files, recursive=recursive) if obj.kind in EXPLAINED]
    if not found:
        raise CommandFailed(f"{', '.join(files)}: there is no Pod, ReplicaSet or Deployment to explain")
    return found


def from_server(client: "Client", targets: Iterable[Target]) -> list[Subject]:
    """The named objects; of a pod that has a node also that.

    Raises:
        CommandFailed: some do not exist.
    """
    from milpa_ray.client.calls import parse
    from milpa_ray.errors import NotFound

    found, missing = [], []
    for target in targets:
        for name in target.names:
            try:
                (stored,) = client.list_raw(target.kind.name, name=name)
            except NotFound:
                missing.append(f'{target.kind.plural} "{name}" not found')
                continue
            status = json.loads(stored).get("status", {}) if target.kind.name == "Pod" else None
            found.append(_subject(parse(stored), status, _node(client, status)))
    if missing:
        raise CommandFailed(*missing)
    return found


def _node(client: "Client", status: Document | None) -> Document | None:
    from milpa_ray.errors import NotFound

    name = (status or {}).get("boundNodeName", "")
    try:
        return next((json.loads(data) for data in client.list_raw("Node", name=name)), None) if name else None
    except NotFound:  # gone between the two questions
        return None


def _subject(obj: "Resource", status: Document | None = None, node: Document | None = None) -> Subject:
    pods = 1 if obj.kind == "Pod" else int(obj.spec.replicas)  # type: ignore[attr-defined]
    return Subject(f"{obj.kind.lower()}/{obj.name}", obj.kind, obj.name, _spec(obj), pods, status, node)


def _spec(obj: "Resource") -> "PodSpec":
    """The pod's spec in a pod or a template."""
    spec: Any = obj.spec  # type: ignore[attr-defined]
    found: PodSpec = spec if obj.kind == "Pod" else spec.template.spec
    return found


def check_targets(targets: Sequence[Target]) -> Sequence[Target]:
    """``targets`` if they can be explained.

    Raises:
        UsageError: no names, or a kind without pods.
    """
    for target in targets:
        if target.kind.name not in EXPLAINED:
            raise UsageError(
                f"{target.kind.plural} have no instance to choose; pods, replicasets and deployments can be explained"
            )
        if not target.names:
            raise UsageError(f"say which of the {target.kind.plural}, as in {target.kind.lower}/NAME")
    return targets
