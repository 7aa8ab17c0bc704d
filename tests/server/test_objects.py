"""What a request makes of the stored object, without store or server."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milpa_ray.api import Pod, ReplicaSet, Secret
from milpa_ray.api.meta import ObjectMeta
from milpa_ray.api.pod import PodPhase, PodStatus
from milpa_ray.client.calls import make_pod
from milpa_ray.errors import Conflict, Ended, Invalid
from milpa_ray.server.items import hidden
from milpa_ray.server.objects import (
    MAX_OBJECT_BYTES,
    ORPHAN,
    decode,
    deleting,
    kind_called,
    new_object,
    terminating,
    updated_object,
)

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)


def stored(pod: Pod, **changes: Any) -> bytes:
    body = json.loads(new_object(pod, "u1", NOW).to_json())
    body["metadata"] |= changes
    return json.dumps(body).encode()


def test_a_new_object_reads_back_as_itself() -> None:
    made = new_object(make_pod("web", "nginx", env={"A": "1"}), "u1", NOW)
    assert decode(made.to_json()) == made
    assert made.metadata.creation_timestamp == NOW
    assert (made.uid, made.metadata.generation) == ("u1", 1)


@given(st.dictionaries(st.sampled_from("abc"), st.sampled_from("xyz")), st.sampled_from(["i:1", "i:2"]))
def test_an_update_reaches_what_is_wanted_and_then_nothing_is_left(labels: dict[str, str], image: str) -> None:
    before = stored(make_pod("web", "i:1", labels={"a": "x"}))
    wanted = make_pod("web", image, labels=labels)
    after = updated_object(before, wanted)
    if after is None:
        assert (labels, image) == ({"a": "x"}, "i:1")
        return
    pod = Pod.from_json(after)
    assert (pod.metadata.labels, pod.spec) == (labels, wanted.spec)
    assert pod.metadata.generation == (1 if image == "i:1" else 2)
    assert updated_object(after, wanted) is None


def test_our_annotations_survive_an_update_and_the_users_are_replaced() -> None:
    before = stored(make_pod("web", "i"), annotations={"milpa.io/x": "1", "mine": "1"})
    wanted = make_pod("web", "i")
    wanted = wanted.model_copy(update={"metadata": ObjectMeta(name="web", annotations={"other": "2"})})
    after = updated_object(before, wanted)
    assert after is not None
    assert Pod.from_json(after).metadata.annotations == {"milpa.io/x": "1", "other": "2"}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("instance_type", "c5.large"),
        ("resources", {"cpu": "2"}),
        ("spot", {"policy": "always"}),
        ("placement", {"availabilityZone": "us-east-1a"}),
    ],
)
def test_the_resources_under_a_pod_cannot_be_changed(field: str, value: object) -> None:
    with pytest.raises(Invalid, match="can't be changed"):
        updated_object(stored(make_pod("web", "i")), make_pod("web", "i", **{field: value}))


def test_another_object_and_one_being_deleted_refuse_updates() -> None:
    wanted = make_pod("web", "i:2")
    with pytest.raises(Ended, match="being deleted"):
        updated_object(stored(make_pod("web", "i"), deletionTimestamp="2026-01-01T00:00:00Z"), wanted)
    other = wanted.model_copy(update={"metadata": ObjectMeta(name="web", uid="u2")})
    with pytest.raises(Conflict, match="another object"):
        updated_object(stored(make_pod("web", "i")), other)


@pytest.mark.parametrize("phase", ["Succeeded", "Failed", "Terminated"])
def test_a_pod_that_has_ended_takes_no_other_spec(phase: str) -> None:
    ended = make_pod("web", "i").model_copy(update={"status": PodStatus(phase=PodPhase(phase))}).to_json()
    with pytest.raises(Ended, match=f"pod 'web' has ended \\(it is {phase}\\) .*; delete it and create it anew"):
        updated_object(ended, make_pod("web", "i:2"))
    assert updated_object(ended, make_pod("web", "i")) is None
    assert updated_object(ended, make_pod("web", "i", labels={"a": "b"})) is not None
    assert updated_object(ended, make_pod("web", "i", phase="Terminated")) is not None


def test_a_secret_value_equal_to_what_is_shown_stays() -> None:
    before = new_object(Secret(metadata=ObjectMeta(name="s"), data={"k": "c2VjcmV0"}), "u", NOW).to_json()
    assert updated_object(before, Secret(metadata=ObjectMeta(name="s"), data={"k": hidden("c2VjcmV0")})) is None
    after = updated_object(before, Secret(metadata=ObjectMeta(name="s"), data={"k": "bmV3"}))
    assert after is not None
    assert Secret.from_json(after).data == {"k": "bmV3"}


@given(st.binary(max_size=200))
def test_what_is_shown_of_a_secret_tells_its_length_only(value: bytes) -> None:
    import base64

    assert base64.b64decode(hidden(base64.b64encode(value).decode())) == f"{len(value)} bytes".encode()


@given(st.binary(max_size=300))
def test_no_bytes_make_decode_fail_otherwise_than_cleanly(data: bytes) -> None:
    with pytest.raises(Invalid):
        decode(data)


@pytest.mark.parametrize("data", [b"[]", b"1", b'{"kind":1}', b'{"kind":"Pod","spec":[]}', b"[" * 5000])
def test_json_that_is_no_object_is_refused(data: bytes) -> None:
    with pytest.raises(Invalid):
        decode(data)


def test_too_large_is_said_before_it_is_parsed() -> None:
    with pytest.raises(Invalid, match="the limit is"):
        decode(b"x" * (MAX_OBJECT_BYTES + 1))


def test_wishes_are_added_to_what_is_stored() -> None:
    pod = Pod.from_json(deleting(stored(make_pod("web", "i")), NOW, orphan=False))
    assert pod.metadata.deletion_timestamp == NOW
    kept = ReplicaSet.from_json(
        deleting(new_object(ReplicaSet(metadata=ObjectMeta(name="r")), "u", NOW).to_json(), NOW, orphan=True)
    )
    assert kept.metadata.annotations == {ORPHAN: "true"}
    body = json.loads(terminating(b'{"kind":"Node","metadata":{"name":"n","generation":3}}'))
    assert (body["spec"]["terminate"], body["metadata"]["generation"]) == (True, 4)


def test_kinds_go_by_all_their_names() -> None:
    assert {kind_called(text).name for text in ("po", "Pod", "pods", "POD")} == {"Pod"}
    with pytest.raises(Invalid, match="the kinds are pods, nodes"):
        kind_called("dog")
