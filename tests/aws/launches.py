"""``RunInstances`` as EC2 has it and moto does not: client tokens, capacity, and counts from MinCount to MaxCount.

A token is remembered for the life of the proxy, by region: the same call again gets the same reservation as it is now,
another call ``IdempotentParameterMismatch``; once all its instances are terminated, ``IdempotentInstanceTerminated``. A
call that fails leaves its token free. Calls with one token take turns.
"""

import threading
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping
from dataclasses import replace
from urllib.parse import urlencode

from tests.aws.calls import Answer, Call, refusal
from tests.aws.faults import Capacity, Lag, Wanted

NAMESPACE = "http://ec2.amazonaws.com/doc/2016-11-15"
"""As moto writes it."""
_INSTANCE_IDS = "instancesSet/{*}item/{*}instanceId"
_NOT_COMPARED = frozenset({"Action", "Version", "ClientToken", "DryRun"})
Upstream = Callable[[Call], Answer]


class Launches:
    """Answers ``RunInstances``."""

    def __init__(self, upstream: Upstream, capacity: Capacity, lag: Lag) -> None:
        self._upstream, self._capacity, self._lag = upstream, capacity, lag
        self._lock = threading.Lock()
        self._turns: dict[tuple[str, str], threading.Lock] = {}
        self._known: dict[tuple[str, str], tuple[Mapping[str, str], list[str]]] = {}
        self._zones: dict[str, str] = {}

    def run(self, call: Call) -> Answer:
        """Launches, or recalls the launch of the same token."""
        token = call.parameters.get("ClientToken", "")
        if not token or call.parameters.get("DryRun") == "true":
            return self._launch(call)
        if len(token) > 64 or not token.isascii():
            return refusal(call, "InvalidParameterValue", "ClientToken: at most 64 ASCII characters")
        key = (call.region, token)
        with self._lock:
            turn = self._turns.setdefault(key, threading.Lock())
        with turn:
            asked = {name: value for name, value in call.parameters.items() if name not in _NOT_COMPARED}
            if key in self._known:
                before, instances = self._known[key]
                if before != asked:
                    what = "Arguments on this idempotent request are inconsistent with those of previous requests."
                    return refusal(call, "IdempotentParameterMismatch", what)
                return self._recall(call, instances)
            answer = self._launch(call)
            if answer.status == 200:
                self._known[key] = (asked, _texts(ET.fromstring(answer.body), _INSTANCE_IDS))
            return answer

    def _launch(self, call: Call) -> Answer:
        granted = self._capacity.grant(call, self.wanted(call))
        if isinstance(granted, Answer):
            return granted
        # moto gives MinCount, EC2 as many up to MaxCount as it has.
        answer = self._upstream(_with(call, {**call.parameters, "MinCount": str(granted), "MaxCount": str(granted)}))
        if answer.status == 200:
            self._lag.launched(_texts(ET.fromstring(answer.body), _INSTANCE_IDS))
        return answer

    def _recall(self, call: Call, instances: list[str]) -> Answer:
        named = {f"InstanceId.{number}": name for number, name in enumerate(instances, 1)}
        found = self._describe(call, "DescribeInstances", named)
        item = found.find("{*}reservationSet/{*}item")
        if item is None:
            return refusal(call, "InternalError", f"moto has forgotten {instances}")
        states = {state.text for state in item.iterfind(".//{*}instanceState/{*}name")}
        if states == {"terminated"}:
            return refusal(call, "IdempotentInstanceTerminated", "The instances of this client token are terminated.")
        root = ET.Element(f"{{{NAMESPACE}}}RunInstancesResponse")
        root.extend(item)
        return Answer(200, to_xml(root), (("Content-Type", "text/xml;charset=UTF-8"),))

    def wanted(self, call: Call) -> Wanted:
        """What a launch asks for."""
        asked = call.parameters
        subnet = asked.get("SubnetId") or asked.get("NetworkInterface.1.SubnetId", "")
        return Wanted(
            instance_type=asked.get("InstanceType", ""),
            zone=self._zone_of(call, subnet) if subnet else asked.get("Placement.AvailabilityZone", ""),
            spot=asked.get("InstanceMarketOptions.MarketType") == "spot",
            least=int(asked.get("MinCount", "1")),
            most=int(asked.get("MaxCount", "1")),
        )

    def _zone_of(self, call: Call, subnet: str) -> str:
        if subnet not in self._zones:
            found = self._describe(call, "DescribeSubnets", {"SubnetId.1": subnet})
            self._zones[subnet] = _text(found, "availabilityZone")
        return self._zones[subnet]

    def _describe(self, call: Call, action: str, named: Mapping[str, str]) -> ET.Element:
        asked = {"Action": action, "Version": "2016-11-15", **named}
        return ET.fromstring(self._upstream(_with(replace(call, action=action), asked)).body)


def without(body: bytes, hidden: frozenset[str]) -> bytes:
    """A DescribeInstances or DescribeInstanceStatus response without these instances."""
    root = ET.fromstring(body)
    for parent in list(root.iter()):
        for item in list(parent):
            instances = item.find("{*}instancesSet")
            named = [item] if instances is None else list(instances)
            if all(one.findtext("{*}instanceId") in hidden for one in named):
                parent.remove(item)
    return to_xml(root)


def to_xml(root: ET.Element) -> bytes:
    ET.register_namespace("", NAMESPACE)
    return bytes(ET.tostring(root, encoding="utf-8", xml_declaration=True))


def _with(call: Call, parameters: Mapping[str, str]) -> Call:
    return replace(call, parameters=parameters, body=urlencode(parameters).encode())


def _texts(root: ET.Element, path: str) -> list[str]:
    return [found.text or "" for found in root.iterfind(f".//{{*}}{path}")]


def _text(root: ET.Element, name: str) -> str:
    return next(iter(_texts(root, name)), "")
