"""When a wait is over, and when it can't be any more."""

import pytest

from milpa_ray.api import Pod, PodPhase
from milpa_ray.api.meta import ObjectMeta
from milpa_ray.api.pod import PodStatus
from milpa_ray.client.results import Change, WaitFailed, WatchEvent
from milpa_ray.client.waiting import PodWait
from milpa_ray.errors import Invalid, NotFound

SYNCED = WatchEvent(Change.SYNCED)


def event(name: str, phase: PodPhase, change: Change = Change.MODIFIED, message: str = "") -> WatchEvent:
    pod = Pod(metadata=ObjectMeta(name=name), status=PodStatus(phase=phase, message=message))
    return WatchEvent(change, name, pod.to_json(), 1)


def test_all_named_pods_must_be_there_in_their_order() -> None:
    wait = PodWait(["b", "a"], "", "Running")
    assert wait.feed(event("a", PodPhase.RUNNING)) is None
    assert wait.feed(event("b", PodPhase.WAITING)) is None
    assert wait.feed(event("c", PodPhase.FAILED)) is None
    assert wait.feed(SYNCED) is None
    assert wait.missing() == "b is Waiting"
    pods = wait.feed(event("b", PodPhase.RUNNING))
    assert pods is not None
    assert [pod.name for pod in pods] == ["b", "a"]


def test_one_name_is_watched_by_name() -> None:
    assert PodWait("a", "", "Running").watched_name == "a"
    assert PodWait(["a", "b"], "", "Running").watched_name == ""


def test_what_is_not_there_is_said_at_once() -> None:
    with pytest.raises(NotFound, match="no pod named 'a'"):
        PodWait("a", "", "Running").feed(SYNCED)
    with pytest.raises(NotFound, match="no pod matches 'x=y'"):
        PodWait((), "x=y", "Running").feed(SYNCED)
    with pytest.raises(Invalid, match="needs names or a selector"):
        PodWait((), "", "Running")
    with pytest.raises(Invalid, match="phases: pods have no phase 'Walking'; they have Waiting, "):
        PodWait("a", "", "Walking")


def test_an_end_in_another_phase_is_told_with_its_reason() -> None:
    with pytest.raises(WaitFailed, match=r"pod 'a' is Failed \(image not found\) and will not be Running"):
        PodWait("a", "", "Running").feed(event("a", PodPhase.FAILED, message="image not found"))
    wait = PodWait("a", "", ["Succeeded", "Failed"])
    wait.feed(event("a", PodPhase.FAILED))
    assert wait.feed(SYNCED)


def test_a_deleted_pod_is_no_more_waited_for() -> None:
    wait = PodWait("a", "", "Running")
    wait.feed(event("a", PodPhase.WAITING))
    wait.feed(SYNCED)
    with pytest.raises(WaitFailed, match="was deleted before it was Running"):
        wait.feed(event("a", PodPhase.WAITING, Change.REMOVED))
    selected = PodWait((), "x=y", "Running")
    selected.feed(event("a", PodPhase.WAITING))
    selected.feed(event("b", PodPhase.RUNNING))
    assert selected.feed(SYNCED) is None
    assert selected.feed(event("a", PodPhase.WAITING, Change.REMOVED))
