"""What is to be changed on a load balancer."""

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.aws.balancer_changes import (
    attribute_changes,
    balancer_name,
    check_balancer,
    choose_subnets,
    from_listener,
    listener_changes,
    to_attributes,
    to_listener,
)
from cloud.aws.network import Subnet
from milpa_ray.errors import Invalid
from milpa_ray.ports import BalancerOptions, HealthCheck, Listener, LoadBalancer

HTTP = Listener(80, "http", 8080, "http")
HTTPS = Listener(443, "https", 8080, "http", "arn:aws:acm:us-east-1:123456789012:certificate/1")
WANTED = LoadBalancer("web", (HTTP,), HealthCheck("TCP:8080"))

listeners = st.builds(
    lambda port, protocol, target, certificate: Listener(
        port, protocol, target, "http", certificate if protocol == "https" else ""
    ),
    st.integers(1, 4),
    st.sampled_from(["http", "https"]),
    st.integers(1, 2),
    st.sampled_from(["arn:1", "arn:2"]),
)
sets = st.lists(listeners, unique_by=lambda listener: listener.port)


@given(wanted=sets, actual=sets)
def test_the_changes_lead_to_the_wanted_listeners_and_leave_equal_ones_alone(
    wanted: list[Listener], actual: list[Listener]
) -> None:
    changes = listener_changes(wanted, actual)
    now = {listener.port: listener for listener in actual}
    for port, certificate in changes.recertify.items():
        now[port] = replace(now[port], certificate=certificate)
    for port in changes.close:
        assert now.pop(port) not in wanted
    for listener in changes.open:
        assert listener.port not in now
        now[listener.port] = listener
    assert sorted(now.values()) == sorted(wanted)


def test_a_new_certificate_alone_interrupts_nothing() -> None:
    changes = listener_changes([replace(HTTPS, certificate="arn:new")], [HTTPS])
    assert (changes.close, dict(changes.recertify), changes.open) == ((), {443: "arn:new"}, ())


@given(listener=listeners)
def test_a_listener_is_read_as_it_was_written(listener: Listener) -> None:
    assert from_listener(to_listener(listener)) == listener


def test_only_attributes_that_differ_are_changed() -> None:
    options = BalancerOptions("logs", "web", 5, draining_s=30, idle_timeout_s=45, cross_zone=True)
    assert attribute_changes(options, to_attributes(options)) == {}
    assert attribute_changes(replace(options, idle_timeout_s=60), to_attributes(options)) == {
        "ConnectionSettings": {"IdleTimeout": 60}
    }
    assert attribute_changes(replace(options, access_log_prefix=""), to_attributes(options)) == {
        "AccessLog": {"Enabled": True, "S3BucketName": "logs", "S3BucketPrefix": "", "EmitInterval": 5}
    }
    told = to_attributes(BalancerOptions()) | {"ConnectionDraining": {"Enabled": False, "Timeout": 300}}
    assert attribute_changes(BalancerOptions(), told) == {}
    assert set(attribute_changes(BalancerOptions(), to_attributes(options))) == set(told)


@pytest.mark.parametrize(
    ("cluster", "service"), [("demo", "web"), ("demo", "a-service-with-quite-a-long-name"), ("c" * 40, "s" * 63)]
)
def test_names_fit_into_what_aws_allows(cluster: str, service: str) -> None:
    name = balancer_name(cluster, service)
    assert re.fullmatch(r"milpa-[a-z0-9-]{1,25}[a-z0-9]", name)
    assert name != balancer_name(cluster, f"{service}x")


def test_a_short_name_is_readable() -> None:
    assert balancer_name("Demo", "web") == "milpa-demo-web"


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"listeners": ()}, "at least one port"),
        ({"listeners": (HTTP, replace(HTTP, target_port=81))}, "listed twice"),
        ({"security_groups": tuple(f"sg-{n}" for n in range(6))}, "6 security groups are more than AWS' 5"),
        ({"tags": {f"k{n}": "" for n in range(8)}}, "11 tags are more than the 10"),
    ],
)
def test_what_aws_would_refuse_half_way_is_refused_before(wrong: dict, told: str) -> None:
    check_balancer(WANTED)
    with pytest.raises(Invalid, match=f"Service web: .*{told}"):
        check_balancer(replace(WANTED, **wrong))


def test_each_zone_has_one_subnet_of_the_right_kind() -> None:
    subnets = [
        Subnet("public-a", "a", True, 10),
        Subnet("public-a2", "a", True, 20),
        Subnet("public-b", "b", True, 5),
        Subnet("private-a", "a", False, 1),
    ]
    assert choose_subnets(subnets, internal=False) == {"a": "public-a2", "b": "public-b"}
    assert choose_subnets(subnets, internal=True) == {"a": "private-a"}
    assert choose_subnets(subnets[:3], internal=True) == {"a": "public-a2", "b": "public-b"}
    assert choose_subnets(subnets[3:], internal=False) == {}
