"""Builds requests and reads replies: what the sync and the async client share. No I/O."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from milpa_ray.client import checks
from milpa_ray.client.results import Change, ClusterOffers, Outcome, Ref, ServerVersion, WatchEvent, WriteResult
from milpa_ray.errors import Invalid, NotFound

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

    from milpa_ray.api import Pod, Resource
    from milpa_ray.proto import milpa_pb2 as pb

MAX_CALL_OBJECTS = 1000
MAX_CALL_BYTES = 4 << 20
_OUTCOMES = tuple(Outcome)


def kind_text(kind: str | type[Resource]) -> str:
    """What to send as the kind: the class's canonical name, or the text as it is (the server resolves it). Raises
    ``Invalid`` for what is neither."""
    found = kind if isinstance(kind, str) else getattr(kind, "KIND", None)
    if not isinstance(found, str) or not found:
        raise Invalid(f"kind: {checks.shown(kind)} is no kind; pass a name such as 'pods', or a class such as Pod")
    return found


def parse(data: bytes) -> Resource:
    """The object in ``data``, by the kind that it names. Raises ``Invalid`` for what is no object of a known kind."""
    from pydantic import ValidationError

    from milpa_ray.api import find_kind

    try:
        kind = find_kind(json.loads(data)["kind"])
    except (ValueError, KeyError, TypeError):
        raise Invalid("the server sent something that is no object") from None
    if kind is None:
        raise Invalid("the server sent an object of a kind that this client does not know; update the client")
    try:
        return kind.model.from_json(data)
    except ValidationError as error:
        raise Invalid(f"the server sent a {kind.name} that this client cannot read: {error}") from None


def list_request(kind: str | type[Resource], name: str, selector: str) -> pb.ListRequest:
    """Raises ``Invalid``."""
    from milpa_ray.proto import milpa_pb2 as pb

    where = (checks.text("name", name), checks.text("selector", selector))
    return pb.ListRequest(kind=kind_text(kind), name=where[0], label_selector=where[1])


def logs_request(name: str, unit: str, *, lines: int, limit_bytes: int, follow: bool) -> pb.LogsRequest:
    """Raises ``Invalid``."""
    from milpa_ray.proto import milpa_pb2 as pb

    return pb.LogsRequest(
        name=checks.text("name", name),
        unit=checks.text("unit", unit),
        lines=checks.whole("lines", lines),
        limit_bytes=checks.whole("limit_bytes", limit_bytes),
        follow=bool(follow),
    )


def dump_request(what: str) -> pb.DumpRequest:
    """Raises ``Invalid``."""
    from milpa_ray.proto import milpa_pb2 as pb

    return pb.DumpRequest(what=checks.text("what", what))


def write_requests(verb: str, objects: Sequence[Resource], *, dry_run: bool) -> Iterator[pb.WriteRequest]:
    """The calls that write ``objects``, each of bounded size. Uids are made here, so a repeated call finds itself."""
    from milpa_ray.proto import milpa_pb2 as pb

    request, size = pb.WriteRequest(verb=verb, dry_run=dry_run), 0
    for item in objects:
        data = item.to_json()
        if request.objects and (len(request.objects) >= MAX_CALL_OBJECTS or size + len(data) > MAX_CALL_BYTES):
            yield request
            request, size = pb.WriteRequest(verb=verb, dry_run=dry_run), 0
        request.objects.append(data)
        request.uids.append(str(uuid.uuid4()))
        size += len(data)
    if request.objects:
        yield request


def delete_requests(refs: Sequence[Ref], *, cascade: bool) -> Iterator[pb.DeleteRequest]:
    """The calls that delete ``refs``, each of bounded size. Raises ``Invalid``."""
    from milpa_ray.proto import milpa_pb2 as pb

    for number, ref in enumerate(refs):
        if not isinstance(ref, Ref):
            raise Invalid(f"refs[{number}]: {checks.shown(ref)} is no Ref; pass Ref('Pod', 'web'), or use delete()")
    for at in range(0, len(refs), MAX_CALL_OBJECTS):
        part = refs[at : at + MAX_CALL_OBJECTS]
        yield pb.DeleteRequest(
            refs=[pb.Ref(kind=ref.kind, name=ref.name, uid=ref.uid) for ref in part], orphan=not cascade
        )


def refs_of(kind: str | type[Resource], names: str | Iterable[str]) -> list[Ref]:
    """References to the named objects of one kind."""
    text = kind_text(kind)
    return [Ref(text, name) for name in checks.texts("names", names)]


def results(reply: pb.WriteReply) -> list[WriteResult]:
    """The reply's results."""
    return [
        WriteResult(r.kind, r.name, _outcome(r.outcome), r.message, r.uid, r.revision or reply.revision)
        for r in reply.results
    ]


def _outcome(number: int) -> Outcome:
    """FAILED for what only a newer server knows."""
    return _OUTCOMES[number] if number < len(_OUTCOMES) else Outcome.FAILED


def not_sent(request: pb.WriteRequest | pb.DeleteRequest, reason: str) -> list[WriteResult]:
    """Results for the objects of a call that got no answer."""
    from milpa_ray.proto import milpa_pb2 as pb

    if isinstance(request, pb.DeleteRequest):
        return [WriteResult(ref.kind, ref.name, Outcome.FAILED, reason) for ref in request.refs]
    named = [json.loads(data) for data in request.objects]
    return [WriteResult(o["kind"], o["metadata"]["name"], Outcome.FAILED, reason) for o in named]


def only(found: Sequence[bytes], kind: str | type[Resource], name: str) -> bytes:
    """The one object found. Raises ``NotFound`` (a server answers so itself)."""
    if not found:
        raise NotFound(f"no {kind_text(kind)} named {name!r}")
    return found[0]


def still_there(event: WatchEvent, before: bool) -> bool:
    """Whether the one object watched exists after ``event``."""
    return before if event.change is Change.SYNCED else event.change is not Change.REMOVED


def server_version(reply: pb.VersionReply) -> ServerVersion:
    return ServerVersion(reply.version, reply.cluster, reply.cluster_uuid)


def cluster_offers(reply: pb.OffersReply) -> ClusterOffers:
    return ClusterOffers(reply.region, reply.default_instance_type, reply.default_volume_size, tuple(reply.full))


def add_dump(found: dict[str, Any], chunk: pb.DumpChunk) -> None:
    """Adds a chunk of a dump to what was found so far: arrays of one name are joined."""
    value = json.loads(chunk.json)
    if isinstance(value, list):
        found.setdefault(chunk.name, []).extend(value)
    else:
        found[chunk.name] = value


def make_pod(
    name: str,
    image: str,
    command: Sequence[str] = (),
    *,
    env: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    **spec: Any,
) -> Pod:
    """A pod of one unit, called ``main``. ``spec`` takes any field of the pod's spec by its Python or manifest name,
    such as ``restart_policy="never"``, ``instance_type="c5.large"`` or ``resources={"cpu": "2"}``.

    Raises:
        Invalid: a field is unknown or has a bad value.
    """
    if isinstance(command, str):
        raise Invalid(f"pod {name!r}: command must be a list of words; for a shell's line: ['sh', '-c', {command!r}]")
    if "units" in spec:
        raise Invalid(f"pod {name!r}: spec.units: pod() makes the one unit itself; build others with milpa_ray.api")
    from pydantic import ValidationError

    from milpa_ray.api import Pod

    metadata = {"name": name, "labels": checks.mapping("labels", labels or {})}
    unit = {
        "name": "main",
        "image": image,
        "command": tuple(checks.texts("command", command)),
        "env": tuple({"name": key, "value": value} for key, value in checks.mapping("env", env or {}).items()),
    }
    try:
        return Pod.model_validate({"metadata": metadata, "spec": {"units": (unit,), **spec}})
    except ValidationError as error:
        details = "; ".join(f"{'.'.join(map(str, e['loc']))}: {_field_reason(e)}" for e in error.errors())
        raise Invalid(f"pod {name!r}: {details}") from None


def _field_reason(detail: ErrorDetails) -> str:
    """What is wrong with a field of a pod, with the fields that there are for one that is none."""
    if detail["type"] != "extra_forbidden":
        return detail["msg"]
    from milpa_ray.api import Pod
    from milpa_ray.api.schema import model_at, suggest

    parent = model_at(Pod, tuple(detail["loc"][:-1]))
    known = list(parent.model_fields) if parent is not None else []
    return "unknown field" + (suggest(str(detail["loc"][-1]), known) or f"; known are {', '.join(known)}")
