"""Stored objects for tests: built from the API's models, so that they have the form that the server stores."""

import json
from datetime import UTC, datetime
from typing import Any

from milpa_ray.api import find_kind

NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
CREATED = "2026-01-01T11:55:00.000000Z"


def stored(kind: str, name: str, **fields: Any) -> dict[str, Any]:
    """The dict of a stored object, five minutes old. ``fields`` are as in JSON; ``metadata`` is merged."""
    found = find_kind(kind)
    assert found is not None
    meta = {"name": name, "creationTimestamp": CREATED, **fields.pop("metadata", {})}
    model = found.model.model_validate_json(json.dumps({"kind": found.name, "metadata": meta, **fields}))
    document: dict[str, Any] = json.loads(model.to_json())
    return document


def running_pod(name: str = "web", **metadata: Any) -> dict[str, Any]:
    """A pod of two units: one runs, one has failed and waits for its next start."""
    return stored(
        "Pod",
        name,
        metadata={"uid": f"uid-{name}", "labels": {"app": "web"}, **metadata},
        spec={
            "units": [
                {
                    "name": "http",
                    "image": "img:1",
                    "command": ["httpd", "-f x"],
                    "env": [{"name": "A", "value": "1"}, {"name": "B", "valueFrom": {"secretKeyRef": _REF}}],
                    "ports": [{"port": 80}],
                },
                {"name": "side", "image": "img:2"},
            ],
            "resources": {"cpu": "2", "dedicatedCPU": True},
        },
        status={
            "phase": "Running",
            "lastPhaseChange": CREATED,
            "boundNodeName": "node-1",
            "boundInstanceID": "i-1",
            "addresses": [{"type": "PrivateIP", "address": "10.0.0.2"}],
            "unitStatuses": [
                {"name": "http", "state": {"running": {"startedAt": CREATED}}},
                {
                    "name": "side",
                    "restartCount": 3,
                    "state": {"waiting": {"reason": "back-off 40 s"}},
                    "lastState": {"terminated": {"exitCode": 7, "finishedAt": CREATED}},
                },
            ],
        },
    )


_REF = {"name": "creds", "key": "user"}
