"""Which launches are let in, with which addresses."""

from ipaddress import IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.local.admission import Admission, fingerprint
from cloud.local.faults import FaultBook
from cloud.local.network import Network
from cloud.local.records import InstanceRecord
from milpa_ray.errors import LaunchRejected, NoCapacity
from milpa_ray.ports import InstanceState, LaunchCall
from tests.cloud.compute_contract import launch_call

OFFERS = {"t3.nano": ("us-east-1a", "us-east-1b"), "a1.large": ("us-east-1b",)}


def admission(subnet: str = "10.9.0.0/28", max_instances: int = 100) -> Admission:
    network = Network("mtnone", IPv4Network(subnet), "/nowhere")
    return Admission("us-east-1", network, OFFERS.get, max_instances, 0.0, FaultBook())


@pytest.mark.parametrize(
    ("call", "code"),
    [
        (launch_call(token=""), "MissingParameter"),
        (launch_call(count=0), "InvalidParameterValue"),
        (launch_call(count=1001), "InvalidParameterValue"),
        (launch_call(user_data=b"x" * 16_385), "InvalidParameterValue"),
        (launch_call("t9.nano"), "InvalidParameterValue"),
        (launch_call("a1.large", "us-east-1a"), "InvalidParameterValue"),
    ],
)
def test_bad_launches_are_refused_with_ec2s_code(call: LaunchCall, code: str) -> None:
    with pytest.raises(LaunchRejected) as caught:
        admission().admit(call, [], 0.0)
    assert caught.value.code == code


def test_a_cloud_without_room_for_all_gives_what_it_has() -> None:
    gate = admission(max_instances=3)
    assert len(gate.admit(launch_call(count=2), [], 0.0)) == 2
    (before,) = gate.admit(launch_call(), [], 0.0)
    assert len(gate.admit(launch_call(count=5), [before], 0.0)) == 2


def test_a_full_cloud_and_a_full_subnet_are_told_apart() -> None:
    gate = admission(max_instances=1)
    with pytest.raises(NoCapacity) as caught:
        gate.admit(launch_call(), gate.admit(launch_call(), [], 0.0), 0.0)
    assert caught.value.code == "InsufficientInstanceCapacity"
    with pytest.raises(NoCapacity) as caught:
        admission().admit(launch_call(count=14), [], 0.0)
    assert caught.value.code == "InsufficientFreeAddressesInSubnet"


def test_terminated_instances_take_no_room_but_keep_their_address() -> None:
    gate = admission(max_instances=1)
    (first,) = gate.admit(launch_call(), [], 0.0)
    with pytest.raises(NoCapacity):
        gate.admit(launch_call(), [first], 0.0)
    first.move_to(InstanceState.TERMINATED, 1.0)
    (second,) = gate.admit(launch_call(), [first], 2.0)
    assert second.private_ip != first.private_ip


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 12)), max_size=40), st.booleans())
def test_addresses_are_unique_in_the_subnet(steps: list[tuple[int, int]], restart: bool) -> None:
    gate = admission()
    listed: list[InstanceRecord] = []
    recent: list[str] = []
    for count, forget in steps:
        try:
            made = gate.admit(launch_call(count=count), listed, 0.0)
        except NoCapacity:
            assert len(listed) + count > 13
            made = []
        listed += made
        addresses = [record.private_ip for record in listed]
        assert len(set(addresses)) == len(addresses)
        assert set(addresses) <= {f"10.9.0.{host}" for host in range(2, 15)}
        recent += [record.private_ip for record in made]
        del listed[:forget]
        if restart and recent:
            gate = admission()
            gate.resume_after(recent[-1])


def test_a_freed_address_is_taken_again_after_all_others() -> None:
    gate = admission()
    taken = [gate.admit(launch_call(), [], 0.0)[0].private_ip for _ in range(14)]
    assert len(set(taken[:13])) == 13
    assert taken[13] == taken[0]


def test_the_fingerprint_tells_every_difference() -> None:
    call = launch_call(token="t")
    variants = [
        call,
        launch_call(token="t", count=2),
        launch_call("a1.large", token="t"),
        launch_call(zone="us-east-1b", token="t"),
        launch_call(token="t", spot=True),
        launch_call(token="t", user_data=b"x"),
        launch_call(token="t", tags={}),
    ]
    assert len({fingerprint(variant) for variant in variants}) == len(variants)
    assert fingerprint(call) == fingerprint(launch_call(token="t"))
