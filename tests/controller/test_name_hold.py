"""The hold on the cluster's name while leading."""

import asyncio
import random
from datetime import datetime

import pytest

from milpa_ray.api.meta import ObjectReference
from milpa_ray.clock import SystemClock
from milpa_ray.controller.committing import Deposed
from milpa_ray.controller.deps import CoordinatorDeps
from milpa_ray.controller.name_hold import NameHold
from milpa_ray.errors import CloudUnavailable, NameTaken
from milpa_ray.keys import Keys
from milpa_ray.limits import Limits
from milpa_ray.store.memory import MemoryStore
from tests.waiting import eventually


class Register:
    """Answers with ``errors`` first, the last first; then it lets the name be held."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.held = 0

    async def hold(self, owner: str) -> None:
        assert owner == "uuid-1"
        if self.errors:
            raise self.errors.pop()
        self.held += 1

    async def release(self, owner: str) -> None:
        raise NotImplementedError


class Events:
    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    def record(self, involved: ObjectReference, status: str, message: str = "") -> None:
        self.told.append((status, message))


def hold(register: Register, events: Events) -> NameHold:
    deps = CoordinatorDeps(
        MemoryStore(),
        Keys("c"),
        SystemClock(),
        random.Random(1),
        Limits(),
        lease=None,  # type: ignore[arg-type]
        compute=None,  # type: ignore[arg-type]
        recorder=events,
    )
    return NameHold(deps, register, "uuid-1", interval_s=0.01, patience_s=0.05)


@pytest.fixture
def events() -> Events:
    return Events()


async def test_while_another_cluster_has_the_name_nothing_begins(events: Events) -> None:
    register = Register(NameTaken("theirs"), NameTaken("theirs"))
    await hold(register, events).take()
    assert register.held == 1
    assert events.told == [("cluster-name-taken", "theirs")] * 2


async def test_an_error_of_the_register_stops_no_cluster(events: Events) -> None:
    register = Register(CloudUnavailable("away"))
    holding = hold(register, events)
    await holding.take()
    assert register.held == 0
    assert not events.told
    (told,) = holding.trouble.dump()
    assert told["error"] == "away"
    since = told["since"]
    keeping = asyncio.create_task(holding.keep())
    await eventually(lambda: register.held >= 1)
    await eventually(lambda: holding.trouble.dump() == [])
    keeping.cancel()
    assert datetime.fromisoformat(since).tzinfo is not None


async def test_a_register_that_does_not_answer_stops_no_cluster(events: Events) -> None:
    register = Register()
    register.hold = lambda owner: asyncio.Event().wait()  # type: ignore[assignment, method-assign, misc]
    await hold(register, events).take()
    assert not events.told


async def test_the_hold_is_renewed_whatever_the_register_answers_in_between(events: Events) -> None:
    register = Register(CloudUnavailable("away"), CloudUnavailable("away"))
    keeping = asyncio.create_task(hold(register, events).keep())
    await eventually(lambda: register.held >= 3)
    keeping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await keeping


async def test_who_has_lost_the_name_gives_up(events: Events) -> None:
    with pytest.raises(Deposed, match="theirs"):
        await hold(Register(NameTaken("theirs")), events).keep()
