"""Which firewall rules there are to be, and which instance is in which group. Pure functions.

One group for all nodes, and one for each set of ports that some pod's units declare: pods with the same ports share it.
Which groups a Service adds is not decided here.
"""

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from milpa_ray.api.pod import Pod, Protocol
from milpa_ray.ports import AGENT_PORT, Rule

NODE_GROUP = "nodes.all"
"""Name of the group that every node is in. No Service is called so: their names hold no dot."""
PORTS_GROUP = "ports."
"""First part of the names of the groups for unit ports."""
ALL = -1


@dataclass(frozen=True, slots=True, order=True)
class OpenPort:
    """A port to open to the own network; for ICMP the message type, -1 for all."""

    protocol: Protocol
    port: int


@dataclass(frozen=True, slots=True)
class FirewallPolicy:
    """``open_to_vpc``: the own network reaches every port. ``ports`` are open on every node in any case."""

    open_to_vpc: bool = True
    ports: tuple[OpenPort, ...] = ()


class RuleStep(NamedTuple):
    """Rules to add, or else to revoke, in one go."""

    adds: bool
    rules: tuple[Rule, ...]


def rule_steps(wanted: Collection[Rule], actual: Collection[Rule], most: int) -> list[RuleStep]:
    """The way from the ``actual`` rules to the ``wanted`` ones, of which there may be ``most``.

    Adds first, so that traffic which stays allowed is never cut off. Only what does not fit beside the rules that are
    to go is added after they are revoked.
    """
    add = sorted(set(wanted) - set(actual))
    revoke = sorted(set(actual) - set(wanted))
    room = max(0, most - len(set(actual)))
    steps = [RuleStep(True, tuple(add[:room])), RuleStep(False, tuple(revoke)), RuleStep(True, tuple(add[room:]))]
    return [step for step in steps if step.rules]


def node_rules(policy: FirewallPolicy, own_ranges: Iterable[str]) -> frozenset[Rule]:
    """The rules of the node group. The agents' port is open to the own network always: controllers call there."""
    ranges = list(own_ranges)
    if policy.open_to_vpc:
        return frozenset(Rule("all", ALL, ALL, source) for source in ranges)
    return port_rules([OpenPort(Protocol.TCP, AGENT_PORT), *policy.ports], ranges)


def port_rules(ports: Iterable[OpenPort], own_ranges: Iterable[str]) -> frozenset[Rule]:
    """Rules that open these ports to the own network."""
    ranges = list(own_ranges)
    return frozenset(_rule(port, source) for port in ports for source in ranges)


def _rule(open_port: OpenPort, source: str) -> Rule:
    high = ALL if open_port.protocol is Protocol.ICMP else open_port.port
    return Rule(open_port.protocol.value.lower(), open_port.port, high, source)


def unit_ports(pod: Pod) -> frozenset[OpenPort]:
    """All ports that the pod's units declare."""
    return frozenset(
        OpenPort(port.protocol, port.port) for unit in (*pod.spec.units, *pod.spec.init_units) for port in unit.ports
    )


def ports_group(ports: Collection[OpenPort]) -> str:
    """Name of the group that opens exactly these ports; the same for the same ports, in whatever order."""
    text = ",".join(f"{port.protocol}:{port.port}" for port in sorted(ports))
    return PORTS_GROUP + hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def surplus_groups(there: Iterable[str], wanted: Collection[str]) -> list[str]:
    """Groups for unit ports that no pod asks for any more. Other groups are none of ours here."""
    return sorted(name for name in there if name.startswith(PORTS_GROUP) and name not in wanted)


def groups_of_instance(
    ports: Iterable[str], ours: Mapping[str, str], base: Iterable[str], present: Iterable[str]
) -> frozenset[str]:
    """Ids of the groups that an instance is to be in: those of every node (``base``), those that open its pod's
    ``ports``, and of those in which it is ``present`` all that are not such groups. ``ours``: our groups, the id by the
    name."""
    replaced = {id_ for name, id_ in ours.items() if name.startswith(PORTS_GROUP)}
    return frozenset(base) | frozenset(ports) | (frozenset(present) - replaced)
