"""Which rules there are to be, and the way from those that are there to them."""

from hypothesis import given
from hypothesis import strategies as st

from milpa_ray.api.meta import ObjectMeta
from milpa_ray.api.pod import Pod, PodSpec, Protocol, Unit, UnitPort
from milpa_ray.planner.firewall import (
    FirewallPolicy,
    OpenPort,
    groups_of_instance,
    node_rules,
    port_rules,
    ports_group,
    rule_steps,
    surplus_groups,
    unit_ports,
)
from milpa_ray.ports import AGENT_PORT, Rule

VPC = ["10.0.0.0/16", "fd00::/56"]
SSH, PING = OpenPort(Protocol.TCP, 22), OpenPort(Protocol.ICMP, -1)

rules = st.builds(
    Rule, st.sampled_from(["tcp", "udp"]), st.integers(1, 3), st.integers(3, 4), st.sampled_from(["10.0.0.0/8", "sg-1"])
)


@given(wanted=st.frozensets(rules, max_size=8), actual=st.frozensets(rules, max_size=8))
def test_the_steps_lead_to_the_wanted_rules_within_the_limit_and_cut_off_nothing_that_stays(
    wanted: frozenset[Rule], actual: frozenset[Rule]
) -> None:
    now = set(actual)
    revoked = False
    for step in rule_steps(wanted, actual, most=8):
        assert step.rules
        if step.adds:
            assert now.isdisjoint(step.rules)
            assert not revoked or len(wanted | actual) > 8, "could have been added before anything was revoked"
            now |= set(step.rules)
        else:
            assert now.issuperset(step.rules)
            revoked = True
            now -= set(step.rules)
        assert now >= wanted & actual
        assert len(now) <= 8
    assert now == wanted


def test_more_rules_than_fit_beside_those_to_go_are_added_after_them() -> None:
    old = [Rule("tcp", port, port, "10.0.0.0/8") for port in (1, 2, 3)]
    new = [Rule("udp", port, port, "10.0.0.0/8") for port in (1, 2, 3)]
    steps = rule_steps(new, old, most=4)
    assert [(step.adds, len(step.rules)) for step in steps] == [(True, 1), (False, 3), (True, 2)]


def test_an_open_firewall_lets_the_whole_vpc_in_and_nobody_else() -> None:
    assert node_rules(FirewallPolicy(open_to_vpc=True, ports=(SSH,)), VPC) == {
        Rule("all", -1, -1, "10.0.0.0/16"),
        Rule("all", -1, -1, "fd00::/56"),
    }


def test_a_closed_firewall_lets_in_the_default_rules_and_the_calls_to_the_agent() -> None:
    found = node_rules(FirewallPolicy(open_to_vpc=False, ports=(SSH, PING)), VPC[:1])
    assert found == {
        Rule("tcp", 22, 22, "10.0.0.0/16"),
        Rule("icmp", -1, -1, "10.0.0.0/16"),
        Rule("tcp", AGENT_PORT, AGENT_PORT, "10.0.0.0/16"),
    }


def test_the_ports_of_all_units_are_opened_to_the_vpc() -> None:
    def unit(name: str, *ports: UnitPort) -> Unit:
        return Unit(name=name, image="busybox", ports=ports)

    web, dns = UnitPort(port=80), UnitPort(protocol=Protocol.UDP, port=53, name="dns")
    spec = PodSpec(units=(unit("a", web, dns), unit("b", web)), init_units=(unit("c", UnitPort(port=81)),))
    found = unit_ports(Pod(metadata=ObjectMeta(name="p"), spec=spec))
    assert found == {OpenPort(Protocol.TCP, 80), OpenPort(Protocol.UDP, 53), OpenPort(Protocol.TCP, 81)}
    assert port_rules(found, VPC[:1]) == {
        Rule("tcp", 80, 80, "10.0.0.0/16"),
        Rule("tcp", 81, 81, "10.0.0.0/16"),
        Rule("udp", 53, 53, "10.0.0.0/16"),
    }


def test_equal_sets_of_ports_share_a_group_and_others_do_not() -> None:
    assert ports_group([SSH, PING]) == ports_group((PING, SSH))
    assert ports_group([SSH]) != ports_group([PING])
    assert "." in ports_group([SSH])  # no Service can have that name


def test_only_groups_for_ports_that_nobody_asks_for_are_surplus() -> None:
    used, unused = ports_group([SSH]), ports_group([PING])
    assert surplus_groups(["nodes.all", "web", used, unused], {used}) == [unused]


def test_an_instance_keeps_groups_that_are_none_of_this_duty() -> None:
    ours = {"nodes.all": "sg-nodes", "web": "sg-web", ports_group([SSH]): "sg-old", ports_group([PING]): "sg-new"}
    present = ["sg-nodes", "sg-web", "sg-old", "sg-of-an-admin"]
    found = groups_of_instance(["sg-new"], ours, ["sg-nodes"], present)
    assert found == {"sg-nodes", "sg-web", "sg-new", "sg-of-an-admin"}
