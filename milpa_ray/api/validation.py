"""Semantic checks of what users ask for: everything about an object that its types alone cannot say.

``validate`` is called on user input only (by the manifest loader, and by the API server before it stores an object),
never on what is read from the store. It looks at one object by itself: whether a named Secret exists, or an instance
type is offered, is for others to say.
"""

import base64
import binascii
import ipaddress
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from milpa_ray.api import names
from milpa_ray.api.kinds import KINDS
from milpa_ray.api.meta import API_VERSION, ObjectMeta, Resource
from milpa_ray.api.network import LabelSelector, SelectorOperator, Service, ServiceType
from milpa_ray.api.pod import Pod, PodTemplateSpec, Protocol, UnitPort
from milpa_ray.api.podcheck import check_pod_spec, check_port, repeated
from milpa_ray.api.records import Secret
from milpa_ray.api.schema import FieldError, Path
from milpa_ray.api.workloads import Deployment, ReplicaSet

Errors = Iterator[FieldError]

MAX_ANNOTATIONS = 256 * 1024
"""Greatest size of all annotations of an object, in characters."""
MAX_SECRET = 1024 * 1024
"""Greatest size of all of a Secret's data, in characters of base64."""
MAX_REPLICAS = 1_000_000
MAX_OBJECT = 1024 * 1024
"""Greatest size of an object in the store, in bytes: it must fit a transaction with its status and its events."""

# Why a user cannot make these.
NOT_CREATABLE = {
    "Node": "Milpa makes nodes itself when pods need them; idle ones are asked for by nodes.standbyNodes in server.yml",
    "Event": "events are written by Milpa",
    "LogFile": "log files are written by Milpa",
    "Endpoints": "endpoints are made by Milpa from Services; create a Service",
}


def validate(resource: Resource) -> list[FieldError]:
    """All errors of a user's object, in the order of its fields; empty when it may be stored."""
    if reason := NOT_CREATABLE.get(resource.KIND):
        return [FieldError(("kind",), f"a {resource.KIND} cannot be created: {reason}")]
    errors = [*_envelope(resource), *_CHECKS[type(resource)](resource)]
    if (size := len(resource.to_json())) > MAX_OBJECT:
        errors.append(FieldError((), f"is {size} bytes large, the limit is {MAX_OBJECT}; make it smaller"))
    return errors


def _envelope(resource: Resource) -> Errors:
    if resource.kind not in ("", resource.KIND):
        yield FieldError(("kind",), f"{resource.kind!r} does not go with an object of kind {resource.KIND!r}")
    if resource.api_version != API_VERSION:
        yield FieldError(("apiVersion",), f"{resource.api_version!r} is not known; use {API_VERSION!r}")
    check_name = names.service_name if resource.KIND == "Service" else names.dns_subdomain
    if not resource.name:
        yield FieldError(("metadata", "name"), "is required")
    elif reason := check_name(resource.name):
        yield FieldError(("metadata", "name"), reason)
    yield from _metadata(resource.metadata, ("metadata",))


def _metadata(metadata: ObjectMeta, path: Path) -> Errors:
    if metadata.namespace not in ("", "default"):
        yield FieldError((*path, "namespace"), "Milpa has the namespace 'default' only; leave the field out")
    yield from _labels(metadata.labels, (*path, "labels"))
    for key in metadata.annotations:
        if reason := names.qualified(key):
            yield FieldError((*path, "annotations", key), reason)
    size = sum(len(k) + len(v) for k, v in metadata.annotations.items())
    if size > MAX_ANNOTATIONS:
        yield FieldError((*path, "annotations"), f"hold {size} characters, the limit is {MAX_ANNOTATIONS}")


def _labels(labels: Mapping[str, str], path: Path) -> Errors:
    for key, value in labels.items():
        if reason := names.qualified(key):
            yield FieldError((*path, key), f"label's key: {reason}")
        if reason := names.label_value(value):
            yield FieldError((*path, key), f"label's value: {reason}")


# ---------------------------------------------------------------- kinds


def _pod(pod: Any) -> Errors:
    assert isinstance(pod, Pod)
    yield from check_pod_spec(pod.spec, pod.metadata.annotations, ("spec",))


def _replicas(count: int) -> Errors:
    if count > MAX_REPLICAS:
        yield FieldError(("spec", "replicas"), f"must be at most {MAX_REPLICAS}")


def _template(template: PodTemplateSpec) -> Errors:
    path: Path = ("spec", "template")
    yield from _metadata(template.metadata, (*path, "metadata"))
    yield from check_pod_spec(template.spec, template.metadata.annotations, (*path, "spec"))


def _replica_set(replica_set: Any) -> Errors:
    assert isinstance(replica_set, ReplicaSet)
    yield from _replicas(replica_set.spec.replicas)
    yield from _template(replica_set.spec.template)


def _deployment(deployment: Any) -> Errors:
    assert isinstance(deployment, Deployment)
    spec = deployment.spec
    yield from _replicas(spec.replicas)
    if spec.max_surge == 0 and spec.max_unavailable == 0:
        reason = "must not be 0 when maxSurge is 0, or no pod could ever be replaced"
        yield FieldError(("spec", "maxUnavailable"), reason)
    yield from _template(spec.template)


def _secret(secret: Any) -> Errors:
    assert isinstance(secret, Secret)
    for key, value in secret.data.items():
        path: Path = ("data", key)
        if reason := names.data_key(key):
            yield FieldError(path, reason)
        try:
            base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            # The value is a secret, be it a broken one: it is not shown.
            yield FieldError(path, "is not valid base64; make it with: printf %s 'the value' | base64 -w0")
    if sum(map(len, secret.data.values())) > MAX_SECRET:
        yield FieldError(("data",), f"holds more than {MAX_SECRET} characters; split the Secret")


def _service(service: Any) -> Errors:
    assert isinstance(service, Service)
    spec = service.spec
    yield from _selector(spec.selector, ("spec", "selector"))
    yield from _service_ports(spec.ports, balanced=spec.type == ServiceType.LOAD_BALANCER)
    for i, text in enumerate(spec.source_ranges):
        if reason := _source_range(text):
            yield FieldError(("spec", "sourceRanges", i), reason)


def _selector(selector: LabelSelector, path: Path) -> Errors:
    if not selector.match_labels and not selector.match_expressions:
        yield FieldError(path, "is required: name at least one label of the pods, such as 'app: web'")
    yield from _labels(selector.match_labels, (*path, "matchLabels"))
    for i, expression in enumerate(selector.match_expressions):
        here: Path = (*path, "matchExpressions", i)
        if reason := names.qualified(expression.key):
            yield FieldError((*here, "key"), reason)
        with_values = expression.operator in (SelectorOperator.IN, SelectorOperator.NOT_IN)
        if with_values != bool(expression.values):
            need = "needs at least one value" if with_values else "takes no values"
            yield FieldError((*here, "values"), f"operator {expression.operator} {need}")
        for j, value in enumerate(expression.values):
            if reason := names.label_value(value):
                yield FieldError((*here, "values", j), reason)


def _service_ports(ports: tuple[UnitPort, ...], *, balanced: bool) -> Errors:
    path: Path = ("spec", "ports")
    if balanced and not ports:
        yield FieldError(path, "is required for type LoadBalancer")
    for i, port in enumerate(ports):
        here = (*path, i)
        yield from check_port(port, here)
        if len(ports) > 1 and not port.name:
            yield FieldError((*here, "name"), "is required when there are several ports")
        if balanced and port.protocol != Protocol.TCP:
            yield FieldError((*here, "protocol"), "must be TCP for type LoadBalancer")
        if balanced and port.node_port is None:
            yield FieldError((*here, "nodePort"), "is required for type LoadBalancer: the pods' port behind it")
    yield from repeated([p.name for p in ports], path, "name")
    yield from repeated([f"{p.protocol} {p.port}" for p in ports], path, "port")


def _source_range(text: str) -> str:
    if text.upper() == "VPC":
        return ""
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return f"{text[:80]!r} is no network; write CIDR such as '10.0.0.0/8', or 'VPC'"
    if "/" not in text:
        return f"{text!r} has no prefix length; write {str(network)!r}"
    if ipaddress.ip_interface(text).ip != network.network_address:
        return f"{text!r} has bits set beyond its prefix; write {str(network)!r}"
    return ""


_CHECKS: dict[type[Resource], Callable[[Any], Errors]] = {
    Pod: _pod,
    ReplicaSet: _replica_set,
    Deployment: _deployment,
    Secret: _secret,
    Service: _service,
}
assert set(_CHECKS) == {kind.model for kind in KINDS if kind.creatable}
