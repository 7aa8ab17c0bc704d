"""Objects as the server stores them (JSON, defaults left out), made fit to be shown.

``complete`` puts back the defaults that people and scripts look for; they are the models' (a test holds them together).
``masked`` hides the values of secrets.
"""

import base64
import binascii
import json
import re
from collections.abc import Iterable
from typing import Any

Document = dict[str, Any]

_POD_SPEC: Document = {"phase": "Running", "restartPolicy": "always", "spot": {"policy": "never"}}
DEFAULTS: dict[str, Document] = {
    "Pod": {"spec": _POD_SPEC, "status": {"phase": "Waiting", "startFailures": 0}},
    "Node": {"spec": {"terminate": False, "spot": False}, "status": {"phase": "Creating"}},
    "ReplicaSet": {
        "spec": {"replicas": 1, "template": {"spec": _POD_SPEC}},
        "status": {"replicas": 0, "availableReplicas": 0},
    },
    "Deployment": {
        "spec": {
            "replicas": 1,
            "paused": False,
            "maxUnavailable": 1,
            "maxSurge": 1,
            "template": {"spec": _POD_SPEC},
        },
        "status": {"replicas": 0, "updatedReplicas": 0, "availableReplicas": 0, "unavailableReplicas": 0},
    },
}
PORT_DEFAULTS: Document = {"protocol": "TCP"}


def parse(stored: Iterable[bytes]) -> list[Document]:
    """The stored objects as dicts."""
    return [json.loads(data) for data in stored]


def lookup(obj: object, path: str) -> Any:
    """The value at a dotted path, as in ``status.phase`` or ``spec.units.0.name``; None where it leads nowhere."""
    for part in path.split("."):
        if isinstance(obj, dict):
            obj = obj.get(part)
        elif isinstance(obj, list) and part.isdigit():
            obj = obj[int(part)] if int(part) < len(obj) else None
        else:
            return None
    return obj


def phase(obj: Document) -> str:
    """The object's phase, also when it is the one that is not stored."""
    stored = obj.get("status", {}).get("phase")
    return str(stored or DEFAULTS.get(obj["kind"], {}).get("status", {}).get("phase", ""))


def complete(obj: Document) -> Document:
    """A copy with the defaults put back, and the values of secrets masked."""
    full = _over(DEFAULTS.get(obj.get("kind", ""), {}), obj)
    full["metadata"] = {**obj.get("metadata", {})}
    full["metadata"].setdefault("namespace", "default")
    for spec in (full.get("spec", {}), full.get("spec", {}).get("template", {}).get("spec", {})):
        for key in ("units", "initUnits"):
            if key in spec:
                spec[key] = [_with_ports(unit) for unit in spec[key]]
        if "ports" in spec:
            spec["ports"] = [{**PORT_DEFAULTS, **port} for port in spec["ports"]]
    return masked(full)


def _with_ports(unit: Document) -> Document:
    return {**unit, "ports": [{**PORT_DEFAULTS, **port} for port in unit["ports"]]} if "ports" in unit else unit


def _over(defaults: Document, given: Document) -> Document:
    """``given`` laid over ``defaults``, in the order: kind and version, metadata, then as given."""
    head: Document = {key: given[key] for key in ("kind", "apiVersion", "metadata") if key in given}
    merged: Document = {**head, **defaults, **given}
    for key, default in defaults.items():
        if isinstance(default, dict):
            merged[key] = _over(default, given.get(key, {}))
    return merged


def is_length(value: str) -> bool:
    """Whether a secret's base64 text is only the length of the real value, as ``masked`` makes it."""
    return base64.b64encode(secret_size(value).encode()).decode() == value


def secret_size(value: str) -> str:
    """What is told of a secret's value: its length, such as ``12 bytes``. The server sends that already, in base64."""
    try:
        plain = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        plain = value.encode()
    return plain.decode() if _SIZE.fullmatch(plain) else f"{len(plain)} bytes"


def masked(obj: Document) -> Document:
    """As it is, but a secret's values replaced by their length, base64-encoded as the manual says. The server does so
    too; should one ever not, its secrets are still not printed here."""
    if obj.get("kind") != "Secret" or not obj.get("data"):
        return obj
    sizes = {key: secret_size(value) for key, value in obj["data"].items()}
    return {**obj, "data": {key: base64.b64encode(text.encode()).decode() for key, text in sizes.items()}}


_SIZE = re.compile(rb"\d+ bytes")
