"""The text of ``describe``: labelled lines, indented by what belongs to what.

Head and tail are the same for every kind; the middle comes from one function per kind.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any

from cli.output.explanation import launched
from cli.output.objects import Document, phase, secret_size
from cli.output.tables import selector_text
from cli.output.text import age, one_line, printable, table

Line = tuple[int, str, str]
"""Depth, label, value."""

LABEL_WIDTH = 22
INDENT = 2


def description(obj: Document, events: Sequence[Document] | None, now: datetime, node: Document | None = None) -> str:
    """The description of one object. ``events`` are its own, oldest first; None leaves that part out. ``node`` is the
    one that a pod is bound to, if it is there."""
    if node is not None:
        obj = obj | {"node": node}
    lines = [*_metadata(obj, now), *BODIES.get(obj["kind"], _nothing)(obj, now)]
    text = "".join(_written(line) for line in lines)
    return text if events is None else text + _events(events, now)


def _written(line: Line) -> str:
    depth, label, value = line
    start = " " * (depth * INDENT) + f"{label}:"
    if not value:
        return start + "\n"
    padded = f"{start:<{LABEL_WIDTH}} "
    first, *more = value.split("\n")
    return padded + first + "\n" + "".join(" " * len(padded) + rest + "\n" for rest in more)


def _metadata(obj: Document, now: datetime) -> list[Line]:
    meta = obj["metadata"]
    lines = [(0, "Name", one_line(str(meta.get("name", "")))), (0, "Kind", obj["kind"])]
    if meta.get("uid"):
        lines.append((0, "UID", str(meta["uid"])))
    lines.append((0, "Labels", _mapping(meta.get("labels", {}))))
    if meta.get("annotations"):
        lines.append((0, "Annotations", _mapping(meta["annotations"])))
    if meta.get("ownerName"):
        lines.append((0, "Created by", f"{meta.get('ownerKind', '').lower()}/{meta['ownerName']}"))
    lines.append((0, "Created", _when(meta.get("creationTimestamp"), now)))
    if meta.get("deletionTimestamp"):
        lines.append((0, "Deletion asked", _when(meta["deletionTimestamp"], now)))
    return lines


def _mapping(pairs: dict[str, str]) -> str:
    return "\n".join(one_line(f"{key}={value}") for key, value in sorted(pairs.items())) or "<none>"


def _moment(time: Any) -> str:
    """To the second; empty for none."""
    return f"{str(time).partition('.')[0].rstrip('Z')}Z" if time else ""


def _when(time: Any, now: datetime) -> str:
    return f"{_moment(time)} ({age(time, now)} ago)" if time else "<unknown>"


def _given(depth: int, pairs: Iterable[tuple[str, Any]]) -> list[Line]:
    """Lines for those pairs that have a value."""
    return [(depth, label, printable(str(value))) for label, value in pairs if value not in (None, "", (), [], {})]


def _yes(value: object) -> str:
    return "yes" if value else ""


def _status_lines(obj: Document, now: datetime) -> list[Line]:
    status = obj.get("status", {})
    changed = status.get("lastPhaseChange")
    since = f" (since {age(changed, now)})" if changed else ""
    return [
        (0, "Phase", phase(obj) + since),
        *_given(0, [("Reason", status.get("reason")), ("Message", status.get("message"))]),
    ]


def _addresses(obj: Document) -> list[Line]:
    found = obj.get("status", {}).get("addresses", ())
    return _given(0, [("Addresses", "\n".join(f"{a.get('address', '')} ({a.get('type', '')})" for a in found))])


RESOURCE_LABELS = (
    ("cpu", "CPU"),
    ("memory", "Memory"),
    ("gpu", "GPU"),
    ("gpuName", "GPU name"),
    ("volumeSize", "Volume size"),
    ("arch", "Architecture"),
)
RESOURCE_FLAGS = (
    ("dedicatedCPU", "Dedicated CPU"),
    ("sustainedCPU", "Sustained CPU"),
    ("privateIPOnly", "Private address only"),
)


def _resources(spec: Document, depth: int) -> list[Line]:
    asked = spec.get("resources", {})
    lines = _given(depth + 1, [(label, asked.get(key)) for key, label in RESOURCE_LABELS])
    lines += [(depth + 1, label, "yes" if asked[key] else "no") for key, label in RESOURCE_FLAGS if key in asked]
    return [(depth, "Resources", ""), *lines] if lines else []


def _pod_spec(spec: Document, depth: int) -> list[Line]:
    volumes = [
        f"{v.get('name', '')} ({'packagePath' if 'packagePath' in v else 'emptyDir'})" for v in spec.get("volumes", ())
    ]
    return [
        (depth, "Restart policy", spec.get("restartPolicy", "always")),
        *_given(
            depth,
            [
                ("Instance type", spec.get("instanceType")),
                ("Spot", spec.get("spot", {}).get("policy")),
                ("Zone asked", spec.get("placement", {}).get("availabilityZone")),
                ("Image pull secrets", ", ".join(spec.get("imagePullSecrets", ()))),
                ("Volumes", "\n".join(volumes)),
            ],
        ),
        *_resources(spec, depth),
    ]


def _pod(obj: Document, now: datetime) -> list[Line]:
    spec, status = obj.get("spec", {}), obj.get("status", {})
    wish = spec.get("phase", "Running")
    lines = [
        *_status_lines(obj, now),
        *_given(
            0,
            [
                ("Wanted phase", wish if wish != "Running" else ""),
                ("Node", status.get("boundNodeName")),
                ("Instance", status.get("boundInstanceID")),
                ("Launched as", launched(obj["node"]) if "node" in obj else ""),
                ("Start failures", status.get("startFailures")),
                ("Spot failure", _yes(status.get("spotFailure"))),
            ],
        ),
        *_addresses(obj),
        *_pod_spec(spec, 0),
    ]
    for title, key, states in (("Init units", "initUnits", "initUnitStatuses"), ("Units", "units", "unitStatuses")):
        if spec.get(key):
            lines.append((0, title, ""))
            known = {state.get("name"): state for state in status.get(states, ())}
            for unit in spec[key]:
                lines += _unit(unit, known.get(unit.get("name")), now)
    return lines


def _unit(unit: Document, state: Document | None, now: datetime) -> list[Line]:
    lines: list[Line] = [(1, str(unit.get("name", "")), "")]
    ports = [f"{port.get('port')}/{port.get('protocol', 'TCP')}" for port in unit.get("ports", ())]
    mounts = [f"{mount.get('mountPath', '')} from {mount.get('name', '')}" for mount in unit.get("volumeMounts", ())]
    lines += _given(
        2,
        [
            ("Image", unit.get("image")),
            ("Command", _words(unit.get("command", ()))),
            ("Args", _words(unit.get("args", ()))),
            ("Working dir", unit.get("workingDir")),
            ("Ports", ", ".join(ports)),
            ("Environment", "\n".join(_environment(unit))),
            ("Mounts", "\n".join(mounts)),
        ],
    )
    if state is None:
        return [*lines, (2, "State", "not reported yet")]
    lines.append((2, "State", _state(state.get("state", {}), now)))
    if state.get("lastState"):
        lines.append((2, "Last state", _state(state["lastState"], now)))
    return [*lines, (2, "Restarts", str(state.get("restartCount", 0)))]


def _words(words: Sequence[str]) -> str:
    import shlex

    return shlex.join(words)


def _environment(unit: Document) -> list[str]:
    found = []
    for variable in unit.get("env", ()):
        ref = (variable.get("valueFrom") or {}).get("secretKeyRef")
        value = f"<key {ref.get('key')} of secret/{ref.get('name')}>" if ref else variable.get("value", "")
        found.append(one_line(f"{variable.get('name', '')}={value}"))
    return found


def _state(state: Document, now: datetime) -> str:
    if (running := state.get("running")) is not None:
        started = running.get("startedAt")
        return "running" + (f" since {_when(started, now)}" if started else "")
    if (ended := state.get("terminated")) is not None:
        code = ended.get("exitCode")
        text = f"ended, exit code {'unknown' if code is None else code}"
        text += f" ({ended['reason']})" if ended.get("reason") else ""
        return printable(text + (f", {_when(ended['finishedAt'], now)}" if ended.get("finishedAt") else ""))
    waiting = state.get("waiting") or {}
    text = "cannot be started" if waiting.get("startFailure") else "waiting"
    return printable(text + (f": {waiting['reason']}" if waiting.get("reason") else ""))


def _node(obj: Document, now: datetime) -> list[Line]:
    spec, status = obj.get("spec", {}), obj.get("status", {})
    price = status.get("priceUSDHour")
    return [
        *_status_lines(obj, now),
        *_given(
            0,
            [
                ("Pod", status.get("boundPodName")),
                ("Instance", status.get("instanceID")),
                ("Instance type", spec.get("instanceType")),
                ("Zone", spec.get("placement", {}).get("availabilityZone")),
                ("Spot", "yes" if spec.get("spot") else "no"),
                ("Taken back at", _moment(status.get("interruptionAt"))),
                ("Price per hour", f"${price:.4f} (at launch)" if price else ""),
                ("Root volume", f"{status['volumeGiB']} GiB" if status.get("volumeGiB") else ""),
                ("Boot image", spec.get("bootImage")),
                ("To be terminated", _yes(spec.get("terminate"))),
            ],
        ),
        *_addresses(obj),
        *_resources(spec, 0),
    ]


def _service(obj: Document, _now: datetime) -> list[Line]:
    spec = obj.get("spec", {})
    balancer = obj.get("status", {}).get("loadBalancer") or {}
    ports = [
        f"{p.get('port')}/{p.get('protocol', 'TCP')} to {p.get('targetPort') or p.get('port')}"
        + (f" ({p['name']})" if p.get("name") else "")
        for p in spec.get("ports", ())
    ]
    return _given(
        0,
        [
            ("Type", spec.get("type") or "Cluster"),
            ("Selector", selector_text(obj) or "<none>"),
            ("Ports", "\n".join(ports) or "<none>"),
            ("Source ranges", ", ".join(spec.get("sourceRanges", ()))),
            ("Load balancer", balancer.get("dnsName") or balancer.get("ip")),
        ],
    )


def _template(spec: Document) -> list[Line]:
    pod = spec.get("template", {})
    lines: list[Line] = [
        (0, "Pod template", ""),
        *_given(1, [("Labels", _labels(pod))]),
        *_pod_spec(pod.get("spec", {}), 1),
    ]
    for unit in pod.get("spec", {}).get("units", ()):
        lines += [(1, f"Unit {unit.get('name', '')}", str(unit.get("image", "")))]
    return lines


def _labels(pod: Document) -> str:
    labels = pod.get("metadata", {}).get("labels", {})
    return _mapping(labels) if labels else ""


def _replica_set(obj: Document, _now: datetime) -> list[Line]:
    spec, status = obj.get("spec", {}), obj.get("status", {})
    counts = (
        f"{spec.get('replicas', 1)} desired, {status.get('replicas', 0)} current, "
        f"{status.get('availableReplicas', 0)} available"
    )
    return [(0, "Replicas", counts), *_template(spec)]


def _deployment(obj: Document, _now: datetime) -> list[Line]:
    spec, status = obj.get("spec", {}), obj.get("status", {})
    counts = (
        f"{spec.get('replicas', 1)} desired, {status.get('replicas', 0)} current, "
        f"{status.get('updatedReplicas', 0)} updated, {status.get('availableReplicas', 0)} available, "
        f"{status.get('unavailableReplicas', 0)} unavailable"
    )
    return [
        *_given(0, [("Phase", status.get("phase"))]),
        (0, "Replicas", counts),
        (0, "Rolling update", f"{spec.get('maxUnavailable', 1)} max unavailable, {spec.get('maxSurge', 1)} max surge"),
        *_given(0, [("Paused", _yes(spec.get("paused")))]),
        *_template(spec),
    ]


def _secret(obj: Document, _now: datetime) -> list[Line]:
    data = obj.get("data", {})
    sizes = [(1, one_line(key), secret_size(value)) for key, value in sorted(data.items())]
    return [(0, "Data", "" if sizes else "<none>"), *sizes]


def _event(obj: Document, _now: datetime) -> list[Line]:
    about = obj.get("involvedObject", {})
    return _given(
        0,
        [
            ("Object", f"{about.get('kind', '').lower()}/{about.get('name', '')}"),
            ("Status", obj.get("status")),
            ("Source", obj.get("source")),
            ("Message", obj.get("message")),
        ],
    )


def _log_file(obj: Document, _now: datetime) -> list[Line]:
    parent = obj.get("parentObject", {})
    return [
        (0, "Of", f"{parent.get('kind', '').lower()}/{parent.get('name', '')}"),
        (0, "Content", printable(obj.get("content", "")) or "<empty>"),
    ]


def _endpoints(obj: Document, _now: datetime) -> list[Line]:
    lines: list[Line] = []
    for subset in obj.get("subsets", ()):
        ports = ", ".join(f"{p.get('port')}/{p.get('protocol', 'TCP')}" for p in subset.get("ports", ()))
        places = [
            f"{a.get('ip', '')} {(a.get('targetRef') or {}).get('name', '')}" for a in subset.get("addresses", ())
        ]
        lines += [(0, "Ports", ports or "<none>"), (0, "Addresses", "\n".join(places) or "<none>")]
    return lines or [(0, "Addresses", "<none>")]


def _nothing(_obj: Document, _now: datetime) -> list[Line]:
    return []


BODIES: dict[str, Callable[[Document, datetime], list[Line]]] = {
    "Pod": _pod,
    "Node": _node,
    "Service": _service,
    "ReplicaSet": _replica_set,
    "Deployment": _deployment,
    "Secret": _secret,
    "Event": _event,
    "LogFile": _log_file,
    "Endpoints": _endpoints,
}


def _events(events: Sequence[Document], now: datetime) -> str:
    if not events:
        return "Events:                <none>\n"
    rows = [["AGE", "STATUS", "SOURCE", "MESSAGE"]]
    for event in events:
        texts = (one_line(str(event.get(key, ""))) for key in ("status", "source", "message"))
        rows.append([age(event["metadata"].get("creationTimestamp"), now), *texts])
    return "Events:\n" + "".join(f"  {line}\n" for line in table(rows).splitlines())
