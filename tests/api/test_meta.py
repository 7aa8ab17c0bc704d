"""JSON as stored: compact, stable, tolerant of a newer server's fields."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from milpa_ray.api import KINDS, Pod
from milpa_ray.api.meta import ObjectMeta
from milpa_ray.api.pod import PodSpec, PodStatus, Unit


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_an_empty_object_is_its_kind_alone(kind: object) -> None:
    model = kind.model  # type: ignore[attr-defined]
    data = model().to_json()
    assert data == b'{"kind":"%s","apiVersion":"v1"}' % model.KIND.encode()
    assert model.from_json(data) == model()


def test_names_on_the_wire() -> None:
    pod = Pod(
        metadata=ObjectMeta(name="web", owner_uid="u"),
        spec=PodSpec(units=(Unit(name="main", image="nginx", working_dir="/a"),)),
        status=PodStatus(bound_instance_id="i-1", bound_node_uid="n"),
    )
    assert pod.to_json() == (
        b'{"kind":"Pod","apiVersion":"v1","metadata":{"name":"web","ownerUID":"u"},'
        b'"spec":{"units":[{"name":"main","image":"nginx","workingDir":"/a"}]},'
        b'"status":{"boundNodeUID":"n","boundInstanceID":"i-1"}}'
    )


def test_a_newer_server_s_fields_are_ignored_at_every_level() -> None:
    data = (
        b'{"kind":"Pod","new":1,"metadata":{"name":"web","new":1},"spec":{"units":[{"name":"a","image":"b","new":1}]}}'
    )
    assert Pod.from_json(data).spec.units[0].image == "b"
    with pytest.raises(ValidationError):
        Pod.model_validate_json(data)


def test_people_always_see_the_phase() -> None:
    assert Pod(metadata=ObjectMeta(name="web")).to_dict() == {
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": {"name": "web"},
        "status": {"phase": "Waiting"},
    }


def test_objects_are_frozen() -> None:
    with pytest.raises(ValidationError):
        Pod().kind = "Node"  # type: ignore[misc]


zones = st.integers(-12, 12).map(lambda hours: timezone(timedelta(hours=hours)))
times = st.datetimes(datetime(1990, 1, 1), datetime(2100, 1, 1), timezones=zones)  # noqa: DTZ001 - given zones by the strategy


@given(times, times)
def test_times_survive_and_sort_as_text(one: datetime, other: datetime) -> None:
    texts = []
    for moment in (one, other):
        pod = Pod(metadata=ObjectMeta(creation_timestamp=moment))
        assert Pod.from_json(pod.to_json()).metadata.creation_timestamp == moment
        texts.append(pod.to_dict()["metadata"]["creationTimestamp"])
    assert (texts[0] < texts[1]) == (one.astimezone(UTC) < other.astimezone(UTC))
