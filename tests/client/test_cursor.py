"""A watch that breaks, or that the server has forgotten, goes on as if nothing had happened."""

from hypothesis import given
from hypothesis import strategies as st

from milpa_ray.client.cursor import WatchCursor
from milpa_ray.client.results import Change
from milpa_ray.proto import milpa_pb2 as pb

State = dict[str, int]


def listing(state: State, revision: int) -> list[pb.WatchReply]:
    present = [
        pb.WatchEvent(change=pb.PRESENT, object=pb.Object(name=name, json=b"{}", revision=at))
        for name, at in state.items()
    ]
    return [pb.WatchReply(events=present), pb.WatchReply(events=[pb.WatchEvent(change=pb.SYNCED)], revision=revision)]


def told(cursor: WatchCursor, replies: list[pb.WatchReply]) -> list[tuple[Change, str]]:
    return [(event.change, event.name) for reply in replies for event in cursor.feed(reply)]


def test_what_is_there_then_synced_and_the_revision_to_resume_from() -> None:
    cursor = WatchCursor("Pod", "", "a=b")
    request = cursor.request()
    assert (request.kind, request.label_selector, request.revision) == ("Pod", "a=b", 0)
    first, last = listing({"x": 1, "y": 2}, 7)
    assert told(cursor, [first]) == [(Change.PRESENT, "x"), (Change.PRESENT, "y")]
    assert cursor.request().revision == 0  # broken in the middle of the list: begin anew
    assert told(cursor, [first, last]) == [(Change.SYNCED, "")]  # nothing is told twice
    assert cursor.request().revision == 7


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 9)),
    st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 9)),
)
def test_a_forgotten_watch_tells_exactly_the_difference(before: State, after: State) -> None:
    cursor = WatchCursor("Pod")
    cursor.request()
    told(cursor, listing(before, 10))
    cursor.expired()
    assert cursor.request().revision == 0
    state = dict(before)
    for reply in listing(after, 20):
        for event in cursor.feed(reply):
            assert event.change is not Change.SYNCED
            if event.change is Change.REMOVED:
                del state[event.name]
            else:
                assert (event.change is Change.MODIFIED) == (event.name in state)
                assert state.get(event.name) != event.revision
                state[event.name] = event.revision
    assert state == after
    assert cursor.revision == 20


def test_a_watch_from_a_revision_that_is_forgotten_at_once_lists() -> None:
    cursor = WatchCursor("Pod", revision=5)
    assert cursor.request().revision == 5
    cursor.expired()
    cursor.request()
    assert told(cursor, listing({"x": 6}, 9)) == [(Change.ADDED, "x")]
