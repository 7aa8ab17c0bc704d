"""Secret, Event and LogFile: data that controllers and users read, without a life cycle of its own."""

from typing import ClassVar

from pydantic import Field

from milpa_ray.api.meta import ObjectReference, Resource


class Secret(Resource):
    """``data`` holds base64 text, as in the manifest."""

    KIND: ClassVar[str] = "Secret"

    kind: str = "Secret"
    data: dict[str, str] = Field(default_factory=dict)


class Event(Resource):
    KIND: ClassVar[str] = "Event"

    kind: str = "Event"
    involved_object: ObjectReference = Field(default_factory=ObjectReference)
    status: str = ""
    source: str = ""
    message: str = ""


class LogFile(Resource):
    """The saved tail of a unit's or an agent's log."""

    KIND: ClassVar[str] = "LogFile"

    kind: str = "LogFile"
    parent_object: ObjectReference = Field(default_factory=ObjectReference)
    content: str = ""
