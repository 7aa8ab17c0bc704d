"""What a user's object becomes when it is stored: pure functions from request and stored state to the next state.

Nothing here trusts the client: every object is parsed strictly and validated, and status, owner and times are ours.
Updates edit the stored JSON instead of writing it anew, so that what a newer server has added to it survives.
"""

import re
from datetime import datetime
from typing import Any

from pydantic import ValidationError
from pydantic_core import from_json, to_json

from milpa_ray.api import KINDS, Kind, Pod, PodPhase, Resource, find_kind
from milpa_ray.api.manifest import check_object
from milpa_ray.api.meta import ObjectMeta
from milpa_ray.api.phases import POD_TERMINAL
from milpa_ray.api.validation import NOT_CREATABLE, validate
from milpa_ray.errors import Conflict, Ended, Invalid
from milpa_ray.server.items import hidden

MAX_OBJECT_BYTES = 1_200_000
"""Largest stored object: with its key and the compare it fits one transaction."""
ORPHAN = "milpa.io/orphan"
"""Annotation of a ReplicaSet or Deployment being deleted whose children are to be kept."""
OUR_PREFIX = "milpa.io/"
"""Annotations of this prefix are ours: an update that does not mention them keeps them."""
IMMUTABLE_POD_FIELDS = ("instanceType", "resources", "spot", "placement")
_UID = re.compile(r"[0-9A-Za-z-]{1,64}")


def kind_called(text: str) -> Kind:
    """The kind that a user calls ``text``. Raises ``Invalid``."""
    kind = find_kind(text)
    if kind is None:
        known = ", ".join(kind.plural for kind in KINDS)
        raise Invalid(f"there is no kind {text!r}; the kinds are {known}")
    return kind


def decode(data: bytes) -> Resource:
    """The object that a client sent, valid. Raises ``Invalid`` that names every wrong field."""
    if len(data) > MAX_OBJECT_BYTES:
        raise Invalid(f"the object has {len(data)} bytes, the limit is {MAX_OBJECT_BYTES}")
    try:
        head = from_json(data)
        kind = kind_called(str(head["kind"]))
    except (ValueError, KeyError, TypeError):
        raise Invalid("not an object: JSON with a kind is needed") from None
    try:
        resource = kind.model.model_validate_json(data)
    except ValidationError:
        # Read once more by the checks of manifests, which are slower and tell far better what is wrong.
        _, found = check_object(kind.model, head)
        raise Invalid("; ".join(map(str, found)) or f"not a valid {kind.name}") from None
    if errors := validate(resource):
        raise Invalid("; ".join(map(str, errors)))
    return resource


def checked_uid(uid: str) -> str:
    """``uid`` if it can be one. Raises ``Invalid``."""
    if not _UID.fullmatch(uid):
        raise Invalid(f"uid {uid[:80]!r} is none: letters, digits and '-' only, at most 64")
    return uid


def new_object(resource: Resource, uid: str, now: datetime) -> Resource:
    """``resource`` as it is created: a uid of its own, generation 1, no owner, and a fresh status."""
    given = resource.metadata
    metadata = ObjectMeta(
        name=given.name,
        labels=given.labels,
        annotations=given.annotations,
        uid=uid,
        creation_timestamp=now,
        generation=1,
    )
    update: dict[str, Any] = {"metadata": metadata}
    if "status" in type(resource).model_fields:
        update["status"] = type(resource).model_fields["status"].get_default(call_default_factory=True)
    return resource.model_copy(update=update)


def updated_object(stored: bytes, wanted: Resource) -> bytes | None:
    """The stored object with what a user may change taken from ``wanted``; None when nothing differs.

    Raises:
        Invalid: a field differs that can't change.
        Conflict: it is another object now.
        Ended: it is being deleted, or it is a pod that has ended, of which a new spec would change nothing.
    """
    body = from_json(stored)
    metadata = body["metadata"]
    what = f"{wanted.KIND.lower()} {wanted.name!r}"
    if wanted.uid and wanted.uid != metadata.get("uid"):
        raise Conflict(f"{what} is another object now: its uid is {metadata.get('uid')}, not {wanted.uid}")
    if metadata.get("deletionTimestamp"):
        raise Ended(f"{what} is being deleted; create it anew once it is gone")
    new = from_json(wanted.to_json())
    _keep_hidden(body, new)
    present = from_json(type(wanted).from_json(stored).to_json())  # in the form that this version writes
    _check_immutable(present, new, what)
    meant = _meant(new, metadata)
    content = [field for field in ("spec", "data") if present.get(field) != new.get(field)]
    if not content and all(metadata.get(key, {}) == value for key, value in meant.items()):
        return None
    if content:
        _refuse_ended(present, new, what)
    for key, value in meant.items():
        _set(metadata, key, value)
    for field in content:
        _set(body, field, new.get(field))
    if content:
        metadata["generation"] = metadata.get("generation", 0) + 1
    return to_json(body)


def _meant(new: dict[str, Any], stored: dict[str, Any]) -> dict[str, dict[str, str]]:
    """Labels and annotations as they are to be."""
    given = new["metadata"]
    ours = {key: value for key, value in stored.get("annotations", {}).items() if key.startswith(OUR_PREFIX)}
    return {"labels": given.get("labels", {}), "annotations": ours | given.get("annotations", {})}


def _set(body: dict[str, Any], key: str, value: Any) -> None:
    if value:
        body[key] = value
    else:
        body.pop(key, None)


def _keep_hidden(body: dict[str, Any], new: dict[str, Any]) -> None:
    """A Secret's value that comes back as it was shown, its length only, stays what it is."""
    stored, data = body.get("data", {}), new.get("data", {})
    for key, value in data.items():
        if key in stored and value == hidden(stored[key]):
            data[key] = stored[key]


def _check_immutable(present: dict[str, Any], new: dict[str, Any], what: str) -> None:
    if present["kind"] != Pod.KIND:
        return
    old_spec, new_spec = present.get("spec", {}), new.get("spec", {})
    changed = [f"spec.{name}" for name in IMMUTABLE_POD_FIELDS if old_spec.get(name) != new_spec.get(name)]
    if changed:
        raise Invalid(
            f"{', '.join(changed)}: the cloud resources under {what} can't be changed; delete it and create it anew"
        )


def _refuse_ended(present: dict[str, Any], new: dict[str, Any], what: str) -> None:
    """A pod that has ended is not started again, so another spec would do nothing; a wish that it end is harmless."""
    phase = present.get("status", {}).get("phase")
    ended = present["kind"] == Pod.KIND and phase in POD_TERMINAL
    if ended and new.get("spec", {}).get("phase") != PodPhase.TERMINATED:
        raise Ended(f"{what} has ended (it is {phase}) and is not started again; delete it and create it anew")


def deleting(stored: bytes, now: datetime, *, orphan: bool) -> bytes:
    """The stored object with the wish to delete it."""
    body = from_json(stored)
    body["metadata"] |= ObjectMeta(deletion_timestamp=now).model_dump(mode="json", include={"deletion_timestamp"})
    if orphan:
        body["metadata"].setdefault("annotations", {})[ORPHAN] = "true"
    return to_json(body)


def terminating(stored: bytes) -> bytes:
    """The stored node with the wish to terminate it."""
    body = from_json(stored)
    body.setdefault("spec", {})["terminate"] = True
    body["metadata"]["generation"] = body["metadata"].get("generation", 0) + 1
    return to_json(body)


def refuse_unmade(kind: Kind) -> None:
    """Raises ``Invalid`` for kinds whose objects only Milpa makes and removes."""
    if reason := NOT_CREATABLE.get(kind.name):
        raise Invalid(f"{kind.plural} can't be deleted: {reason}")
