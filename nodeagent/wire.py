"""Between the domain's values and the agent protocol's messages, for both ends of the link."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime

from milpa_ray.api.pod import Pod, UnitStatus
from milpa_ray.ports import AgentReport, DesiredPod, RegistryLogin, Token
from nodeagent.proto import agent_pb2 as pb

TOKEN_TRAILER = "milpa-token"  # noqa: S105
HOST_HEADER = "milpa-host"
"""Metadata of each call: the host that was dialled. Node agents ignore it; a server that stands in for many nodes
(``hollow``) tells them apart by it, as gRPC shows a server neither its own address nor the authority."""


def token_to_wire(token: Token) -> pb.Token:
    return pb.Token(term=token.term, revision=token.revision)


def token_from_wire(token: pb.Token) -> Token:
    return Token(token.term, token.revision)


def desired_to_wire(token: Token, desired: DesiredPod) -> pb.DispatchRequest:
    return pb.DispatchRequest(
        token=token_to_wire(token),
        pod_json=desired.pod.to_json(),
        logins=[pb.Login(server=x.server, username=x.username, password=x.password) for x in desired.logins],
        dns_servers=desired.dns_servers,
        dns_search=desired.dns_search,
        insecure_registries=desired.insecure_registries,
    )


def desired_from_wire(request: pb.DispatchRequest) -> DesiredPod:
    """Raises ValueError (pydantic's) when the pod is malformed."""
    return DesiredPod(
        Pod.from_json(request.pod_json),
        tuple(RegistryLogin(x.server, x.username, x.password) for x in request.logins),
        tuple(request.dns_servers),
        tuple(request.dns_search),
        tuple(request.insecure_registries),
    )


def report_to_wire(report: AgentReport) -> pb.Report:
    full = report.units is not None
    return pb.Report(
        sequence=report.sequence,
        pod_uid=report.pod_uid,
        generation=report.generation,
        units_json=_statuses_to_json(report.units or ()) if full else b"",
        init_units_json=_statuses_to_json(report.init_units) if full else b"",
        stopped=report.stopped,
        interruption_at=report.interruption_at.isoformat() if report.interruption_at is not None else "",
    )


def report_from_wire(report: pb.Report) -> AgentReport:
    """Raises ValueError when the statuses or the time are malformed."""
    return AgentReport(
        sequence=report.sequence,
        pod_uid=report.pod_uid,
        generation=report.generation,
        units=_statuses_from_json(report.units_json) if report.units_json else None,
        init_units=_statuses_from_json(report.init_units_json) if report.init_units_json else (),
        stopped=report.stopped,
        interruption_at=_time_from_wire(report.interruption_at) if report.interruption_at else None,
    )


def _time_from_wire(text: str) -> datetime:
    at = datetime.fromisoformat(text)
    return at.astimezone(UTC) if at.tzinfo is not None else at.replace(tzinfo=UTC)


def _statuses_to_json(statuses: Sequence[UnitStatus]) -> bytes:
    return b"[" + b",".join(x.model_dump_json(exclude_defaults=True).encode() for x in statuses) + b"]"


def _statuses_from_json(data: bytes) -> tuple[UnitStatus, ...]:
    return tuple(UnitStatus.model_validate(item, extra="ignore") for item in json.loads(data))
