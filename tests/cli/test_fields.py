"""Fields as users name them."""

import pytest

from cli.fields import field_path, problem, sort_path
from cli.kinds import kind_called
from cli.reporting import UsageError


@pytest.mark.parametrize(
    ("typed", "path"),
    [
        ("status.phase", "status.phase"),
        (".status.phase", "status.phase"),
        ("{.status.phase}", "status.phase"),
        ("{ $.status.phase }", "status.phase"),
        ("{.spec.units[0].name}", "spec.units.0.name"),
    ],
)
def test_forms(typed: str, path: str) -> None:
    assert field_path(typed) == path


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("pod", "status.phase"),
        ("pod", "metadata.name"),
        ("pod", "metadata.labels.app"),
        ("pod", "metadata.creationTimestamp"),
        ("pod", "spec.units.0.image"),
        ("pod", "status.boundInstanceID"),
        ("pod", "status.unitStatuses.1.restartCount"),
        ("pod", "status.unitStatuses.0.state.terminated.exitCode"),
        ("node", "status.priceUSDHour"),
        ("svc", "status.loadBalancer.dnsName"),
        ("deploy", "spec.template.spec.restartPolicy"),
        ("event", "involvedObject.name"),
        ("event", "status"),
        ("secret", "data.password"),
        ("rs", "kind"),
    ],
)
def test_what_exists(kind: str, path: str) -> None:
    assert problem(kind_called(kind), path) == ""


@pytest.mark.parametrize(
    ("kind", "path", "words"),
    [
        ("pod", "nonsense", 'pods have no field "nonsense"; there are kind, apiVersion, metadata, spec, status'),
        ("pod", "status.phas", "pods have no field \"phas\" in status; did you mean 'phase'?"),
        ("pod", "status.phase.x", 'pods have no field "x" in status.phase'),
        ("pod", "spec.units.name", 'pods have no field "name" in spec.units'),
        ("pod", "", 'pods have no field ""'),
        ("pod", "status", "is no single value; name one of its fields; there are phase, lastPhaseChange"),
        ("pod", "metadata.labels", "name a key, as in metadata.labels.app"),
        ("pod", "spec.units", "name a position, as in spec.units.0"),
        ("svc", "status.phase", 'services have no field "phase" in status; there are loadBalancer'),
    ],
)
def test_what_does_not_is_said_with_what_there_is(kind: str, path: str, words: str) -> None:
    assert words in problem(kind_called(kind), path)


def test_the_order_of_several_kinds_needs_the_field_in_one() -> None:
    kinds = [kind_called("svc"), kind_called("pod")]
    assert sort_path("{.status.phase}", kinds) == "status.phase"
    assert sort_path("", kinds) == ""
    with pytest.raises(UsageError, match='--sort-by: services have no field "nonsense"'):
        sort_path("nonsense", kinds)
