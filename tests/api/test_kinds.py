"""The kinds by all their names."""

import pytest

from milpa_ray.api import KINDS, find_kind


@pytest.mark.parametrize(
    ("text", "name"),
    [
        # The manual's abbreviations, in its order.
        *[("deploy", "Deployment"), ("ep", "Endpoints"), ("ev", "Event"), ("no", "Node"), ("po", "Pod")],
        *[("rs", "ReplicaSet"), ("svc", "Service")],
        *[
            ("replicaset", "ReplicaSet"),
            ("REPLICASETS", "ReplicaSet"),
            ("Logfiles", "LogFile"),
            ("endpoints", "Endpoints"),
        ],
    ],
)
def test_names_in_any_case(text: str, name: str) -> None:
    kind = find_kind(text)
    assert kind is not None
    assert kind.name == name


def test_unknown_names() -> None:
    assert find_kind("container") is None
    assert find_kind("") is None


def test_the_manual_s_nine_kinds() -> None:
    workloads = {"Pod", "ReplicaSet", "Deployment", "Node"}
    assert {kind.name for kind in KINDS} == workloads | {"Service", "Endpoints", "Secret", "Event", "LogFile"}
