"""What an HTTP request to the AWS API asks for, and how the API words an error. Knows no rules and sends nothing.

The service is read from the signature's scope; the action from the form (EC2, ELB, IAM, STS), from the header
``X-Amz-Target`` (DynamoDB, price list) or, for Route53, from method and path by the SDK's own service model.
"""

import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from urllib.parse import parse_qsl
from xml.sax.saxutils import escape

JSON_SERVICES = frozenset({"dynamodb", "pricing"})
SERVER_ERRORS = frozenset({"InsufficientInstanceCapacity", "InternalError", "InternalFailure", "ServerInternal"})
UNAVAILABLE = frozenset({"RequestLimitExceeded", "Unavailable", "ServiceUnavailable"})
_SCOPE = re.compile(r"Credential=[^/]+/\d+/([^/]+)/([^/]+)/aws4_request")


@dataclass(frozen=True, slots=True)
class Call:
    """``parameters`` are a query call's, flat as on the wire (``TagSpecification.1.Tag.1.Key``)."""

    service: str
    action: str
    region: str
    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    parameters: Mapping[str, str] = field(default_factory=dict)

    def numbered(self, prefix: str) -> list[str]:
        """The values of a list, such as those of ``InstanceId.1``, ``InstanceId.2``."""
        found = {key: value for key, value in self.parameters.items() if re.fullmatch(rf"{prefix}\.\d+", key)}
        return [found[key] for key in sorted(found, key=lambda key: int(key.rpartition(".")[2]))]


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP response. ``code`` is the error code in it, empty on success."""

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()
    code: str = ""


def parse_call(method: str, path: str, headers: Mapping[str, str], body: bytes) -> Call:
    """The call in a request, ``?`` for a service or action that cannot be told. ``headers`` have lower-case names."""
    scope = _SCOPE.search(headers.get("authorization", ""))
    region, service = scope.groups() if scope else ("?", "?")
    target = headers.get("x-amz-target", "")
    parameters: dict[str, str] = {}
    if target:
        action = target.rpartition(".")[2]
    elif service == "route53":
        action = _route53_action(method, path.partition("?")[0])
    else:
        form = headers.get("content-type", "").startswith("application/x-www-form-urlencoded")
        text = body.decode() if form else path.partition("?")[2]
        parameters = dict(parse_qsl(text, keep_blank_values=True))
        action = parameters.get("Action", "?")
    return Call(service, action, region, method, path, headers, body, parameters)


def refusal(call: Call, code: str, message: str = "", status: int = 0) -> Answer:
    """The error as that service's API words it; the status that it has there, unless one is given."""
    message = message or code
    status = status or _status(code)
    if call.service in JSON_SERVICES:
        told = json.dumps({"__type": f"com.amazonaws.{call.service}#{code}", "message": message}).encode()
        return Answer(status, told, (("Content-Type", "application/x-amz-json-1.0"),), code)
    request, error = uuid.uuid4(), f"<Code>{escape(code)}</Code><Message>{escape(message)}</Message>"
    if call.service == "ec2":
        text = f"<Response><Errors><Error>{error}</Error></Errors><RequestID>{request}</RequestID></Response>"
    else:
        kind = "Sender" if status < 500 else "Receiver"
        error = f"<Error><Type>{kind}</Type>{error}</Error>"
        text = f"<ErrorResponse>{error}<RequestId>{request}</RequestId></ErrorResponse>"
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n{text}'.encode()
    return Answer(status, body, (("Content-Type", "text/xml;charset=UTF-8"),), code)


def _status(code: str) -> int:
    if code in UNAVAILABLE:
        return 503
    return 500 if code in SERVER_ERRORS else 400


def _route53_action(method: str, path: str) -> str:
    return next((name for name, verb, shape in _route53_shapes() if verb == method and shape.fullmatch(path)), "?")


@cache
def _route53_shapes() -> list[tuple[str, str, re.Pattern[str]]]:
    import botocore.session

    model = botocore.session.Session().get_service_model("route53")
    shapes = []
    for name in model.operation_names:
        http = model.operation_model(name).http
        uri = re.escape(http["requestUri"].partition("?")[0].rstrip("/"))
        shapes.append((name, http["method"], re.compile(re.sub(r"\\\{[^}]+\\\}", "[^/]+", uri) + "/?")))
    return shapes
