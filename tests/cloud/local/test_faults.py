"""Scripted faults: which strike, how often, and what a wrong request says."""

import json

import pytest

from cloud.local import faults
from cloud.local.client import LocalCompute
from cloud.local.faults import FaultBook, FaultKind
from cloud.local.lifecycle import LocalCloud


def book(*rules: dict[str, object]) -> FaultBook:
    made = FaultBook()
    made.apply(json.dumps({"add": rules}))
    return made


def test_a_fault_strikes_as_often_as_it_says_then_no_more() -> None:
    faults = book({"kind": "throttle", "times": 2})
    assert [bool(faults.take(FaultKind.THROTTLE, call="list")) for _ in range(4)] == [True, True, False, False]


def test_a_fault_without_number_strikes_until_cleared() -> None:
    faults = book({"kind": "throttle"})
    assert all(faults.take(FaultKind.THROTTLE, call="list") for _ in range(5))
    faults.apply('{"clear": true}')
    assert faults.take(FaultKind.THROTTLE, call="list") is None


@pytest.mark.parametrize(
    ("instance_type", "zone", "spot", "strikes"),
    [
        ("c5.large", "us-east-1a", True, True),
        ("c6.large", "us-east-1a", True, False),
        ("c5.large", "us-east-1b", True, False),
        ("c5.large", "us-east-1a", False, False),
    ],
)
def test_a_fault_strikes_only_what_it_names(instance_type: str, zone: str, spot: bool, strikes: bool) -> None:
    faults = book({"kind": "no-capacity", "type": "c5.*", "zone": "us-east-1a", "spot": True})
    taken = faults.take(FaultKind.NO_CAPACITY, instance_type=instance_type, zone=zone, spot=spot)
    assert bool(taken) is strikes


def test_a_fault_of_one_call_spares_the_others() -> None:
    faults = book({"kind": "api-error", "call": "launch"})
    assert faults.take(FaultKind.API_ERROR, call="list") is None
    assert faults.take(FaultKind.API_ERROR, call="launch")


@pytest.mark.parametrize(
    "request_text",
    ["[]", "{", '{"remove": 1}', '{"add": [{"kind": "flood"}]}', '{"add": [{"kind": "throttle", "often": 1}]}',
     '{"add": [{"kind": "throttle", "times": 0}]}'],
)  # fmt: skip
def test_a_wrong_request_changes_nothing(request_text: str) -> None:
    faults = book({"kind": "throttle"})
    with pytest.raises(ValueError, match=r"faults|JSON|Expecting"):
        faults.apply(request_text)
    assert json.loads(faults.dump()) == [{"kind": "throttle"}]


@pytest.mark.integration
async def test_the_command_sets_shows_and_clears(
    cloud: LocalCloud, compute: LocalCompute, capsys: pytest.CaptureFixture[str]
) -> None:
    socket = ["--socket", str(cloud.socket)]
    assert faults.main([*socket, "set", "no-capacity", "--type", "c5*", "--spot", "--times", "3"]) == 0
    capsys.readouterr()
    assert faults.main([*socket, "show"]) == 0
    assert json.loads(capsys.readouterr().out) == {"kind": "no-capacity", "times": 3, "type": "c5*", "spot": True}
    assert faults.main([*socket, "clear"]) == 0
    assert faults.main([*socket, "set", "throttle", "--times", "0"]) == 1
    assert "times" in capsys.readouterr().err
    assert json.loads(await compute.set_faults("{}")) == []
