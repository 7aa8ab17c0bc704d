"""The local cloud's network: one bridge, one nftables table, and a virtual card per instance.

Instances reach each other, the internet through NAT, and of the host only: the API port, DNS, the host's loopback
registries at ``<gateway>:<port>``, and the metadata service at its usual address. Everything else of the host is
refused to them, whatever address they try; what the host itself opens towards them gets its answers. IP forwarding
stays switched on when the network goes, since others may have come to rely on it. Knows nothing of instances' states.
"""

import ipaddress
import json
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAX_BRIDGE_NAME = 15
METADATA_ADDRESS = "169.254.169.254"
"""Where every EC2 instance finds its metadata service."""
_TOOL_TIMEOUT_S = 30.0


class NetworkError(Exception):
    """A network command failed, or what is there belongs to somebody else. Fit for a user."""


@dataclass(frozen=True, slots=True)
class Card:
    """An instance's network card: ``pid`` is its init's, as the host knows it."""

    instance_id: str
    pid: int
    address: str

    @property
    def name(self) -> str:
        """Name of the host's end."""
        return card_name(self.instance_id)


@dataclass(frozen=True, slots=True)
class Network:
    """Names and numbers of one local cloud's network. ``owner`` marks the bridge: the cloud's directory.
    ``metadata_port``: of the host's loopback, where the metadata service listens (0: there is none)."""

    bridge: str
    subnet: ipaddress.IPv4Network
    owner: str
    registry_ports: tuple[int, ...] = ()
    host_ports: tuple[int, ...] = (54555,)
    metadata_port: int = 0

    def __post_init__(self) -> None:
        if not 1 <= len(self.bridge) <= MAX_BRIDGE_NAME or not self.bridge.replace("-", "").replace("_", "").isalnum():
            raise NetworkError(
                f"bridge: {self.bridge!r} is no interface name; use letters, digits, '-' and '_', "
                f"at most {MAX_BRIDGE_NAME}"
            )
        if not 16 <= self.subnet.prefixlen <= 28:
            raise NetworkError(f"subnet: {self.subnet} must be between /16 and /28")

    @property
    def gateway(self) -> str:
        """The bridge's own address, the subnet's first."""
        return str(self.subnet.network_address + 1)

    @property
    def table(self) -> str:
        return f"milpa_{self.bridge}"

    def with_prefix(self, address: str) -> str:
        return f"{address}/{self.subnet.prefixlen}"

    @property
    def _alias(self) -> str:
        return f"milpa {self.owner}"[:255]

    # ------------------------------------------------------------ up

    def up(self) -> None:
        """Makes the bridge, its rules and its kernel settings; does nothing twice.

        Raises:
            NetworkError: the name or the address range is taken, or a command failed.
        """
        found = self._bridge_state()
        if found is None:
            self._refuse_taken_range()
            gateway = self.with_prefix(self.gateway)
            _ip_batch(
                f"link add name {self.bridge} address {_mac(self.gateway)} type bridge stp_state 0 forward_delay 0",
                f'link set dev {self.bridge} alias "{self._alias}"',
                f"addr add {gateway} dev {self.bridge}",
            )
            Path(f"/proc/sys/net/ipv6/conf/{self.bridge}/disable_ipv6").write_text("1")
        elif found.get("ifalias") != self._alias:
            raise NetworkError(
                f"bridge: {self.bridge} exists and is not this local cloud's (it says {found.get('ifalias')!r}); "
                "choose another name"
            )
        _ip_batch(f"link set dev {self.bridge} up")
        Path(f"/proc/sys/net/ipv4/conf/{self.bridge}/route_localnet").write_text("1")
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        _run(["nft", "-f", "-"], self._rules())

    def _rules(self) -> str:
        dnat = accept = metadata = ""
        if self.metadata_port:
            metadata = f'iifname "{self.bridge}" ip daddr {METADATA_ADDRESS} tcp dport 80'
            metadata += f" dnat to 127.0.0.1:{self.metadata_port}"
        if self.registry_ports:
            ports = ", ".join(map(str, self.registry_ports))
            dnat = f'iifname "{self.bridge}" ip daddr {self.gateway} tcp dport {{ {ports} }} dnat to 127.0.0.1'
        if self.host_ports:
            accept = f"tcp dport {{ {', '.join(map(str, self.host_ports))} }} accept"
        return f"""
add table ip {self.table}
delete table ip {self.table}
table ip {self.table} {{
    chain prerouting {{
        type nat hook prerouting priority dstnat; policy accept;
        {dnat}
        {metadata}
    }}
    chain postrouting {{
        type nat hook postrouting priority srcnat; policy accept;
        ip saddr {self.subnet} oifname != {{ "{self.bridge}", "lo" }} masquerade
    }}
    chain input {{
        type filter hook input priority filter; policy accept;
        iifname "{self.bridge}" jump from_instance
    }}
    chain forward {{
        type filter hook forward priority filter; policy accept;
        iifname "{self.bridge}" ip daddr {METADATA_ADDRESS} reject comment "the host's own is none of theirs"
    }}
    chain from_instance {{
        ct state established,related accept
        ct status dnat accept
        {accept}
        meta l4proto {{ tcp, udp }} th dport 53 accept
        icmp type echo-request accept
        meta l4proto tcp reject with tcp reset
        reject
    }}
}}
"""

    def _refuse_taken_range(self) -> None:
        for taken, device in used_ranges():
            if taken.overlaps(self.subnet):
                raise NetworkError(f"subnet: {self.subnet} overlaps {taken} on {device}; choose another range")

    def _bridge_state(self) -> dict[str, Any] | None:
        # "ip link show dev X" exits 1 for a missing device, so all bridges are listed.
        for link in _json(["ip", "-j", "link", "show", "type", "bridge"]):
            if link.get("ifname") == self.bridge:
                return link
        return None

    def bridge_owner(self) -> str | None:
        """What the bridge of our name says about its owner (empty: nothing); None when there is no such bridge."""
        found = self._bridge_state()
        return None if found is None else str(found.get("ifalias", ""))

    def owns(self, alias: str) -> bool:
        """Whether that owner is this local cloud."""
        return alias == self._alias

    # ------------------------------------------------------------ cards

    def connect(self, cards: Iterable[Card]) -> None:
        """Gives instances their cards, in one command; those that have theirs are passed over.

        Raises:
            NetworkError: at least one failed; those before it are made.
        """
        commands = [
            f"link add name {card.name} up master {self.bridge} type veth "
            f"peer name eth0 address {_mac(card.address)} netns {card.pid}"
            for card in cards
            if not Path(f"/sys/class/net/{card.name}").exists()
        ]
        if commands:
            _ip_batch(*commands)

    def disconnect(self, instance_id: str) -> None:
        """Removes an instance's card. The kernel does so too when the instance dies, but later."""
        _run(["ip", "link", "del", "dev", card_name(instance_id)], check=False)

    # ------------------------------------------------------------ down

    def down(self) -> None:
        """Removes the cards, the bridge and the rules, if they are this local cloud's.

        Raises:
            NetworkError: a command failed.
        """
        found = self._bridge_state()
        if found is not None and found.get("ifalias") == self._alias:
            for port in _json(["ip", "-j", "link", "show", "master", self.bridge]):
                # The kernel may be removing the card of a dead instance at this moment.
                _run(["ip", "link", "del", str(port["ifname"])], check=False)
            _ip_batch(f"link del dev {self.bridge}")
        if found is None or found.get("ifalias") == self._alias:
            _run(["nft", "-f", "-"], f"add table ip {self.table}\ndelete table ip {self.table}\n")

    def leftovers(self) -> list[str]:
        """What of this network is still there, for people."""
        found: list[str] = []
        state = self._bridge_state()
        if state is not None and state.get("ifalias") == self._alias:
            found.append(f"bridge {self.bridge}")
        tables = _run(["nft", "list", "tables", "ip"]).splitlines()
        if state is None and f"table ip {self.table}" in tables:
            found.append(f"nftables table ip {self.table}")
        return found


def card_name(instance_id: str) -> str:
    """Name of the host's end of an instance's card: at most 15 characters, unique as the id's random part is."""
    return f"v{instance_id[-14:]}"


def used_ranges() -> list[tuple[ipaddress.IPv4Network, str]]:
    """Destination ranges of the host's routes with their devices; the default route is left out."""
    routes = _json(["ip", "-j", "-4", "route"])
    return [
        (ipaddress.IPv4Network(str(route["dst"])), str(route.get("dev", "")))
        for route in routes
        if route.get("dst") not in (None, "default")
    ]


def _mac(address: str) -> str:
    """A card's address follows from its IP, so that a reused IP leaves no stale neighbour entry."""
    return "02:6d:" + ":".join(f"{byte:02x}" for byte in ipaddress.IPv4Address(address).packed)


def _ip_batch(*commands: str) -> None:
    _run(["ip", "-batch", "-"], "\n".join(commands) + "\n")


def _json(command: list[str]) -> list[dict[str, Any]]:
    parsed: list[dict[str, Any]] = json.loads(_run(command) or "[]")
    return [entry for entry in parsed if entry]


def _run(command: list[str], text: str = "", *, check: bool = True) -> str:
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=_TOOL_TIMEOUT_S, check=False)
    except FileNotFoundError as error:
        raise NetworkError(f"{command[0]} is not installed: apt-get install {_PACKAGES[command[0]]}") from error
    except subprocess.TimeoutExpired as error:
        raise NetworkError(f"{' '.join(command)} did not end within {_TOOL_TIMEOUT_S:g} s") from error
    if check and done.returncode:
        raise NetworkError(f"{' '.join(command)}: {done.stderr.strip() or f'exit code {done.returncode}'}")
    return done.stdout


_PACKAGES = {"ip": "iproute2", "nft": "nftables"}
