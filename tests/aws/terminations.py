"""``TerminateInstances`` as EC2 has it and moto does not: terminated instances may be terminated again."""

import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from urllib.parse import urlencode

from tests.aws.calls import Answer, Call
from tests.aws.launches import NAMESPACE, to_xml


def terminate(call: Call, upstream: Callable[[Call], Answer]) -> Answer:
    """Hands on what still lives, and answers for the rest."""
    ids = call.numbered("InstanceId")
    found = upstream(_about(call, "DescribeInstances", ids))
    if found.status != 200:
        return found
    states = {
        item.findtext("{*}instanceId"): item.findtext("{*}instanceState/{*}name")
        for item in ET.fromstring(found.body).iterfind(".//{*}instancesSet/{*}item")
    }
    ended = [id_ for id_ in ids if states.get(id_) == "terminated"]
    living = [id_ for id_ in ids if id_ not in ended]
    answer = Answer(200, b"")
    if living:
        answer = upstream(_about(call, "TerminateInstances", living))
        if answer.status != 200 or not ended:
            return answer
    root = ET.fromstring(answer.body) if living else ET.Element(f"{{{NAMESPACE}}}TerminateInstancesResponse")
    instances = root.find("{*}instancesSet")
    if instances is None:
        instances = ET.SubElement(root, f"{{{NAMESPACE}}}instancesSet")
    for id_ in ended:
        item = ET.SubElement(instances, f"{{{NAMESPACE}}}item")
        ET.SubElement(item, f"{{{NAMESPACE}}}instanceId").text = id_
        for name in ("currentState", "previousState"):
            state = ET.SubElement(item, f"{{{NAMESPACE}}}{name}")
            ET.SubElement(state, f"{{{NAMESPACE}}}code").text = "48"
            ET.SubElement(state, f"{{{NAMESPACE}}}name").text = "terminated"
    return Answer(200, to_xml(root), (("Content-Type", "text/xml;charset=UTF-8"),))


def _about(call: Call, action: str, ids: list[str]) -> Call:
    parameters = {"Action": action, "Version": "2016-11-15"}
    parameters |= {f"InstanceId.{number}": id_ for number, id_ in enumerate(ids, 1)}
    return replace(call, action=action, parameters=parameters, body=urlencode(parameters).encode())
