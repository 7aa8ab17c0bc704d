"""Defaults put back, secrets masked."""

import base64
import json
from typing import Any

import pytest

from cli.output.objects import DEFAULTS, complete, lookup, masked, phase
from milpa_ray.api import find_kind
from tests.cli.factories import running_pod, stored


def _model(document: dict[str, Any]) -> Any:
    kind = find_kind(document["kind"])
    assert kind is not None
    return kind.model.model_validate_json(json.dumps(document))


@pytest.mark.parametrize("kind", sorted(DEFAULTS))
def test_defaults_are_the_models(kind: str) -> None:
    bare = stored(kind, "x")
    assert _model(complete(bare)) == _model(bare)


def test_completing_changes_no_meaning_and_keeps_what_is_given() -> None:
    pod = running_pod()
    full = complete(pod)
    assert _model(full) == _model(pod)
    assert full["spec"]["restartPolicy"] == "always"
    assert full["spec"]["units"][0]["ports"] == [{"protocol": "TCP", "port": 80}]
    assert full["status"]["phase"] == "Running"
    assert list(full)[:3] == ["kind", "apiVersion", "metadata"]
    assert "ports" in pod["spec"]["units"][0]
    assert "protocol" not in pod["spec"]["units"][0]["ports"][0]


def test_templates_are_completed() -> None:
    deployment = stored(
        "Deployment", "d", spec={"template": {"spec": {"units": [{"name": "u", "image": "i", "ports": [{"port": 1}]}]}}}
    )
    full = complete(deployment)
    assert _model(full) == _model(deployment)
    assert full["spec"]["template"]["spec"]["units"][0]["ports"][0]["protocol"] == "TCP"


def test_phase_that_is_not_stored() -> None:
    assert phase(stored("Pod", "x")) == "Waiting"
    assert phase(stored("Node", "x")) == "Creating"
    assert phase(stored("Secret", "x")) == ""


def test_secrets_show_their_length_in_base64_and_never_their_value() -> None:
    value = base64.b64encode(b"super-secret").decode()
    secret = stored("Secret", "s", data={"password": value})
    shown = masked(secret)["data"]["password"]
    assert base64.b64decode(shown) == b"12 bytes"
    assert value not in json.dumps(complete(secret))
    assert masked(masked(secret)) == masked(secret)


def test_lookup() -> None:
    pod = running_pod()
    assert lookup(pod, "spec.units.1.name") == "side"
    assert lookup(pod, "spec.units.7.name") is None
    assert lookup(pod, "metadata.nothing.here") is None
