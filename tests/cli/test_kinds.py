"""Kinds as typed, and the arguments that name objects."""

import pytest

from cli.kinds import BY_NAME, KINDS, kind_called, parse_targets
from cli.reporting import UsageError
from milpa_ray.api import kinds as api


def test_names_are_those_of_the_api() -> None:
    assert [(k.name, k.plural, k.short) for k in KINDS] == [(k.name, k.plural, k.short) for k in api.KINDS]
    assert {alias: kind.name for alias, kind in BY_NAME.items()} == {a: k.name for a, k in api.BY_NAME.items()}


@pytest.mark.parametrize(
    ("typed", "kind"),
    [("po", "Pod"), ("Pods", "Pod"), ("deploy", "Deployment"), ("ep", "Endpoints"), ("ev", "Event"), ("no", "Node")],
)
def test_abbreviations(typed: str, kind: str) -> None:
    assert kind_called(typed).name == kind


def _flat(*args: str) -> list[tuple[str, tuple[str, ...]]]:
    return [(target.kind.name, target.names) for target in parse_targets(args)]


def test_ways_to_name_objects() -> None:
    assert _flat("pods") == [("Pod", ())]
    assert _flat("pod", "a", "b", "a") == [("Pod", ("a", "b"))]
    assert _flat("po,no") == [("Pod", ()), ("Node", ())]
    assert _flat("pod/a", "svc/b", "pod/c") == [("Pod", ("a", "c")), ("Service", ("b",))]
    assert [kind for kind, _ in _flat("all")] == ["Pod", "Service", "Deployment", "ReplicaSet", "Node"]
    assert [kind for kind, _ in _flat("pods,all")][:2] == ["Pod", "Service"]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((), "say which kind"),
        (("pds",), 'did you mean "pods"?'),
        (("xyzzy",), "the kinds are pods"),
        (("pods,nodes", "a"), "single kind"),
        (("pod/a", "b"), '"b" is not KIND/NAME'),
        (("pod", "svc/b"), '"pod" is not KIND/NAME'),
        (("pod/",), "is not KIND/NAME"),
        (("pod", ""), "a name is empty"),
        (("pod", "a", ""), "a name is empty"),
        (("pod/a/b",), "is not KIND/NAME"),
    ],
)
def test_what_makes_no_sense_is_explained(args: tuple[str, ...], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_targets(args)
    assert words in str(caught.value)
