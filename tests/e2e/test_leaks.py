"""The search for leftovers finds each kind while there is something to find; the fixture uses it after the end."""

import pytest

from tests.e2e.drills import Fleet
from tests.e2e.leaks import Marks, held, now_in_ticks, traces

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]


def test_what_runs_is_found(fleet: Fleet, marks: Marks) -> None:
    found = traces(marks)
    assert set(found) == {"process", "namespace", "mount", "card", "table", "control group", "route"}
    assert len(found["card"]) > len(fleet.names)
    assert held(found["namespace"], now_in_ticks() + 1) == found["namespace"]
    assert len([space for space in found["namespace"] if space.startswith("net:")]) >= len(fleet.names)
