"""The runtime configuration where a container would not show the difference, and what is refused."""

from pathlib import Path
from typing import Any

import pytest

from milpa_ray.api.pod import PodSpec, Unit
from nodeagent.oci_spec import (
    CAPABILITIES,
    DOCKER_CAPABILITIES,
    NodeFacts,
    SpecError,
    UnitImage,
    expand,
    runtime_config,
)
from nodeagent.unit import BackOff

NODE = NodeFacts("host", "/milpa/x", frozenset(CAPABILITIES) - {"CAP_SYS_RESOURCE"}, 1024, Path("/etc-of-node"))


def config(
    unit: dict[str, Any], pod: dict[str, Any] | None = None, image: dict[str, Any] | None = None
) -> dict[str, Any]:
    found = Unit.model_validate({"name": "u", "image": "i", "command": ["c"], **unit})
    spec = PodSpec.model_validate(pod or {})
    return runtime_config(found, spec, UnitImage(Path("/nowhere"), image or {}), NODE, {"v": Path("/vol")}, "cid")


def capabilities(**change: list[str]) -> set[str]:
    return set(config({"securityContext": {"capabilities": change}})["process"]["capabilities"]["bounding"])


def test_capabilities() -> None:
    assert capabilities() == DOCKER_CAPABILITIES
    assert capabilities(add=["NET_ADMIN"]) == DOCKER_CAPABILITIES | {"CAP_NET_ADMIN"}
    assert capabilities(drop=["cap_chown"]) == DOCKER_CAPABILITIES - {"CAP_CHOWN"}
    assert capabilities(drop=["ALL"], add=["KILL"]) == {"CAP_KILL"}
    assert capabilities(add=["ALL"], drop=["CHOWN"]) == NODE.capabilities - {"CAP_CHOWN"}


@pytest.mark.parametrize(
    ("unit", "pod", "image", "why"),
    [
        ({"securityContext": {"capabilities": {"add": ["FLY"]}}}, {}, {}, "capability 'FLY' is unknown"),
        ({"securityContext": {"capabilities": {"add": ["SYS_RESOURCE"]}}}, {}, {}, "the node has no CAP_SYS_RESOURCE"),
        ({"volumeMounts": [{"name": "v", "mountPath": "rel"}]}, {}, {}, "mountPath 'rel' must start with /"),
        ({"command": []}, {}, {}, "image i names no command"),
        ({}, {}, {"User": "nobody"}, "user 'nobody' is not in the image's /etc/passwd"),
        ({}, {}, {"User": "1:staff"}, "group 'staff' is not in the image's /etc/group"),
        ({"env": [{"name": "A", "value": "a\0b"}]}, {}, {}, "'A' holds a null character"),
        ({}, {"securityContext": {"sysctls": [{"name": "../x", "value": "1"}]}}, {}, "no name of a kernel setting"),
    ],
)
def test_what_cannot_be_run_says_why(
    unit: dict[str, Any], pod: dict[str, Any], image: dict[str, Any], why: str
) -> None:
    with pytest.raises(SpecError, match=why):
        config(unit, pod, image)


def test_inner_mounts_come_after_outer_ones() -> None:
    paths = ["/a/b/c", "/a", "/a/b/"]
    mounts = config({"volumeMounts": [{"name": "v", "mountPath": path} for path in paths]})["mounts"]
    assert [mount["destination"] for mount in mounts[-3:]] == ["/a", "/a/b/", "/a/b/c"]


def test_expansion() -> None:
    env = {"A": "1", "B_2": "two"}
    assert expand("$(A) $(B_2) $(NO) $A $$(A) $$$(A) $(", env) == "1 two $(NO) $A $(A) $1 $("


def test_back_off_doubles_up_to_its_limit() -> None:
    assert [BackOff().pause_s(step) for step in (0, 1, 2, 4, 5, 99)] == [10, 20, 40, 160, 300, 300]
