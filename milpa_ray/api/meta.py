"""What all API objects share: the model base, metadata, references, and the JSON conventions.

Field names are camelCase on the wire and snake_case in Python; objects are immutable (``model_copy(update=...)``
makes the next version). Unknown fields are errors in manifests (``extra="forbid"``); what is read back from the store
is parsed with unknown fields ignored, so that a newer server's extra field does not stop an older one.
"""

from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer
from pydantic.alias_generators import to_camel

API_VERSION = "v1"


def _rfc3339(value: datetime) -> str:
    """UTC with microseconds and a trailing Z, so that text order is time order."""
    return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


Time = Annotated[datetime, PlainSerializer(_rfc3339, return_type=str, when_used="json-unless-none")]


class Model(BaseModel):
    """Base of every API type.

    Frozen types without dicts are shared as defaults (``default=ResourceSpec()``) rather than made anew: it halves
    the time of ``from_json``.
    """

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
        frozen=True,
        extra="forbid",
    )

    @classmethod
    def from_manifest(cls, value: dict[str, Any]) -> dict[str, Any]:
        """Canonical form of what a user wrote for this type. Not called for what is read from the store."""
        return value


class ObjectMeta(Model):
    """Metadata that all persisted resources have.

    ``generation``, ``owner_*`` are ours: generation counts changes of the spec (1 at creation), the owner fields name
    the parent that created the object.
    """

    name: str = ""
    labels: dict[str, str] = Field(default_factory=dict)
    creation_timestamp: Time | None = None
    deletion_timestamp: Time | None = None
    annotations: dict[str, str] = Field(default_factory=dict)
    uid: str = ""
    namespace: str = "default"
    generation: int = 0
    owner_kind: str = ""
    owner_name: str = ""
    owner_uid: str = Field(default="", alias="ownerUID")


class ObjectReference(Model):
    """Points at another object."""

    kind: str = ""
    api_version: str = Field(default="", alias="apiVersion")
    name: str = ""
    uid: str = ""


class Resource(Model):
    """Base of the persisted kinds. ``KIND`` is the canonical spelling and what ``kind`` holds."""

    KIND: ClassVar[str] = ""

    kind: str = ""
    api_version: str = API_VERSION
    metadata: ObjectMeta = Field(default_factory=ObjectMeta)

    @property
    def name(self) -> str:
        return self.metadata.name

    @property
    def uid(self) -> str:
        return self.metadata.uid

    def to_json(self) -> bytes:
        """Compact JSON with camelCase names, as stored: ``kind`` and ``apiVersion`` first, defaults left out."""
        body = self.model_dump_json(by_alias=True, exclude_defaults=True, exclude={"kind", "api_version"}).encode()
        head = b'{"kind":"%s","apiVersion":"%s"' % (self.KIND.encode(), API_VERSION.encode())
        return head + (b"}" if body == b"{}" else b"," + body[1:])

    @classmethod
    def from_json(cls, data: bytes | str) -> Self:
        """Parse what ``to_json`` wrote. Unknown fields are ignored.

        Raises:
            pydantic.ValidationError: the bytes are no object of this kind.
        """
        return cls.model_validate_json(data, extra="ignore")

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready dict with camelCase names, for people: defaults left out, but the phase always there."""
        body: dict[str, Any] = {"kind": self.KIND, "apiVersion": API_VERSION}
        body |= self.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude={"kind", "api_version"})
        phase = getattr(getattr(self, "status", None), "phase", None)
        if phase is not None:
            body["status"] = {"phase": str(phase)} | body.get("status", {})
        return body
