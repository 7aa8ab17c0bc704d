"""What each kind shows in ``get``: its columns, and how a cell is read from the stored object.

A cell is plain text from a plain dict: a table of 10,000 pods is a matter of a tenth of a second.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from cli.output.objects import Document, phase, secret_size
from cli.output.text import age, one_line

Cell = Callable[[Document, datetime], str]
NONE = "<none>"
NOT_ITS_TURN = ("PodInitializing", "waiting for init unit")
"""Beginnings of the reasons of units that wait for others."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column; ``wide`` ones show with ``-o wide`` only."""

    title: str
    cell: Cell
    wide: bool = False


def header(kind: str, *, wide: bool) -> list[str]:
    """The titles of the kind's columns."""
    return [column.title for column in COLUMNS[kind] if wide or not column.wide]


def rows(objects: Sequence[Document], now: datetime, *, wide: bool, prefix: bool = False) -> list[list[str]]:
    """One row per object, all of one kind. ``prefix`` puts the kind before the name, as in ``pod/web``."""
    if not objects:
        return []
    kind = objects[0]["kind"]
    cells = [column.cell for column in COLUMNS[kind] if wide or not column.wide]
    lines = [[cell(obj, now) for cell in cells] for obj in objects]
    if prefix:
        for line in lines:
            line[0] = f"{kind.lower()}/{line[0]}"
    return lines


def _name(obj: Document, _now: datetime) -> str:
    return str(obj["metadata"]["name"])


def _age(obj: Document, now: datetime) -> str:
    return age(obj["metadata"].get("creationTimestamp"), now)


def _field(section: str, key: str, *, none: str = NONE) -> Cell:
    """The text at ``section.key``."""

    def cell(obj: Document, _now: datetime) -> str:
        value = obj.get(section, {}).get(key)
        return one_line(str(value)) if value not in (None, "") else none

    return cell


def _number(section: str, key: str, default: int = 0) -> Cell:
    return lambda obj, _now: str(obj.get(section, {}).get(key, default))


def address(obj: Document, kind: str) -> str:
    """The status address of that type (``PrivateIP``, ``PublicIP``), or an empty text."""
    for found in obj.get("status", {}).get("addresses", ()):
        if found.get("type") == kind:
            return str(found.get("address", ""))
    return ""


def _address(kind: str) -> Cell:
    return lambda obj, _now: address(obj, kind) or NONE


def _phase(obj: Document, _now: datetime) -> str:
    """The phase; an object that is being deleted says so, as its phase may stay what it was until the very end."""
    return "Deleting" if "deletionTimestamp" in obj["metadata"] else phase(obj)


def _units(obj: Document, _now: datetime) -> str:
    statuses = obj.get("status", {}).get("unitStatuses", ())
    ready = sum(1 for unit in statuses if unit.get("state", {}).get("running") is not None)
    return f"{ready}/{len(obj.get('spec', {}).get('units', ()))}"


def restarts(obj: Document) -> int:
    """Restarts of all the pod's units."""
    status, total = obj.get("status", {}), 0
    for key in ("unitStatuses", "initUnitStatuses"):
        for unit in status.get(key, ()):
            total += unit.get("restartCount", 0)
    return total


def _restarts(obj: Document, _now: datetime) -> str:
    return str(restarts(obj))


def _reason(obj: Document, _now: datetime) -> str:
    """Why the object is as it is; of a pod of which nothing is said, why its units do not run."""
    status = obj.get("status", {})
    text = ": ".join(part for part in (status.get("reason", ""), status.get("message", "")) if part)
    return one_line(text or _waiting_units(obj)) or NONE


def _waiting_units(obj: Document) -> str:
    """What the pod's units wait for, as in ``CrashLoopBackOff: ...``; with the units' names where there are several.

    A unit whose turn has not come yet is left out while another says more.
    """
    status = obj.get("status", {})
    units = [*status.get("initUnitStatuses", ()), *status.get("unitStatuses", ())]
    waiting = [(unit.get("name", ""), (unit.get("state", {}).get("waiting") or {}).get("reason", "")) for unit in units]
    waiting = [(name, reason) for name, reason in waiting if reason]
    told = [(name, reason) for name, reason in waiting if not reason.startswith(NOT_ITS_TURN)] or waiting[:1]
    return "; ".join(reason if len(units) == 1 else f"{name}: {reason}" for name, reason in told)


def _zone(obj: Document, _now: datetime) -> str:
    return str(obj.get("spec", {}).get("placement", {}).get("availabilityZone") or NONE)


def _spot(obj: Document, _now: datetime) -> str:
    return "yes" if obj.get("spec", {}).get("spot") else "no"


def _price(obj: Document, _now: datetime) -> str:
    price = obj.get("status", {}).get("priceUSDHour")
    return f"${price:.4f}" if price else NONE


def _ports(obj: Document, _now: datetime) -> str:
    ports = obj.get("spec", {}).get("ports", ())
    return ",".join(f"{port.get('port')}/{port.get('protocol', 'TCP')}" for port in ports) or NONE


def _service_type(obj: Document, _now: datetime) -> str:
    return str(obj.get("spec", {}).get("type") or "Cluster")


def _balancer(obj: Document, _now: datetime) -> str:
    balancer = obj.get("status", {}).get("loadBalancer") or {}
    return str(balancer.get("dnsName") or balancer.get("ip") or NONE)


def selector_text(obj: Document) -> str:
    """A service's selector, written as ``-l`` takes it."""
    selector = obj.get("spec", {}).get("selector", {})
    parts = [f"{key}={value}" for key, value in selector.get("matchLabels", {}).items()]
    for need in selector.get("matchExpressions", ()):
        key, values = need.get("key", ""), ", ".join(need.get("values", ()))
        words = {"In": f"{key} in ({values})", "NotIn": f"{key} notin ({values})", "DoesNotExist": f"!{key}"}
        parts.append(words.get(need.get("operator", ""), key))
    return ",".join(parts)


def _selector(obj: Document, _now: datetime) -> str:
    return one_line(selector_text(obj)) or NONE


def _endpoints(obj: Document, _now: datetime) -> str:
    found = [
        f"{place.get('ip', '')}:{port.get('port', '')}"
        for subset in obj.get("subsets", ())
        for place in subset.get("addresses", ())
        for port in subset.get("ports", ())
    ]
    shown = ",".join(found[:3])
    return (f"{shown} + {len(found) - 3} more" if len(found) > 3 else shown) or NONE


def _secret_keys(obj: Document, _now: datetime) -> str:
    return one_line(",".join(f"{key} ({secret_size(v)})" for key, v in obj.get("data", {}).items())) or NONE


def _secret_count(obj: Document, _now: datetime) -> str:
    return str(len(obj.get("data", {})))


def _parent(obj: Document, _now: datetime) -> str:
    parent = obj.get("parentObject", {})
    return f"{parent.get('kind', '').lower()}/{parent.get('name', '')}"


def _log_size(obj: Document, _now: datetime) -> str:
    return str(len(obj.get("content", "").encode()))


def _text(key: str) -> Cell:
    return lambda obj, _now: one_line(str(obj.get(key, "")))


COLUMNS: dict[str, tuple[Column, ...]] = {
    "Pod": (
        Column("NAME", _name),
        Column("UNITS", _units),
        Column("PHASE", _phase),
        Column("RESTARTS", _restarts),
        Column("NODE", _field("status", "boundNodeName")),
        Column("IP", _address("PrivateIP")),
        Column("AGE", _age),
        Column("INSTANCE", _field("status", "boundInstanceID"), wide=True),
        Column("PUBLIC-IP", _address("PublicIP"), wide=True),
        Column("REASON", _reason, wide=True),
    ),
    "Node": (
        Column("NAME", _name),
        Column("PHASE", _phase),
        Column("TYPE", _field("spec", "instanceType")),
        Column("ZONE", _zone),
        Column("POD", _field("status", "boundPodName")),
        Column("INSTANCE", _field("status", "instanceID")),
        Column("IP", _address("PrivateIP")),
        Column("AGE", _age),
        Column("SPOT", _spot, wide=True),
        Column("PRICE/H", _price, wide=True),
        Column("PUBLIC-IP", _address("PublicIP"), wide=True),
        Column("REASON", _reason, wide=True),
    ),
    "Service": (
        Column("NAME", _name),
        Column("TYPE", _service_type),
        Column("PORTS", _ports),
        Column("LOAD-BALANCER", _balancer),
        Column("AGE", _age),
        Column("SELECTOR", _selector, wide=True),
    ),
    "ReplicaSet": (
        Column("NAME", _name),
        Column("DESIRED", _number("spec", "replicas", 1)),
        Column("CURRENT", _number("status", "replicas")),
        Column("AVAILABLE", _number("status", "availableReplicas")),
        Column("AGE", _age),
        Column("OWNER", _field("metadata", "ownerName"), wide=True),
    ),
    "Deployment": (
        Column("NAME", _name),
        Column("PHASE", _field("status", "phase")),
        Column("DESIRED", _number("spec", "replicas", 1)),
        Column("CURRENT", _number("status", "replicas")),
        Column("UPDATED", _number("status", "updatedReplicas")),
        Column("AVAILABLE", _number("status", "availableReplicas")),
        Column("AGE", _age),
        Column("UNAVAILABLE", _number("status", "unavailableReplicas"), wide=True),
    ),
    "Secret": (
        Column("NAME", _name),
        Column("DATA", _secret_count),
        Column("AGE", _age),
        Column("KEYS", _secret_keys, wide=True),
    ),
    "Event": (
        Column("NAME", _name),
        Column("KIND", _field("involvedObject", "kind")),
        Column("OBJECT", _field("involvedObject", "name")),
        Column("STATUS", _text("status")),
        Column("SOURCE", _text("source")),
        Column("AGE", _age, wide=True),
        Column("MESSAGE", _text("message")),
    ),
    "LogFile": (
        Column("NAME", _name),
        Column("PARENT", _parent),
        Column("BYTES", _log_size),
        Column("AGE", _age),
    ),
    "Endpoints": (
        Column("NAME", _name),
        Column("ENDPOINTS", _endpoints),
        Column("AGE", _age),
    ),
}
