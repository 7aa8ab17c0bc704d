from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Verb(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CREATE: _ClassVar[Verb]
    UPDATE: _ClassVar[Verb]
    APPLY: _ClassVar[Verb]

class Outcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CREATED: _ClassVar[Outcome]
    UPDATED: _ClassVar[Outcome]
    UNCHANGED: _ClassVar[Outcome]
    DELETED: _ClassVar[Outcome]
    ALREADY_EXISTS: _ClassVar[Outcome]
    NOT_FOUND: _ClassVar[Outcome]
    INVALID: _ClassVar[Outcome]
    CONFLICT: _ClassVar[Outcome]
    FAILED: _ClassVar[Outcome]
    ENDED: _ClassVar[Outcome]

class Change(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PRESENT: _ClassVar[Change]
    ADDED: _ClassVar[Change]
    MODIFIED: _ClassVar[Change]
    REMOVED: _ClassVar[Change]
    SYNCED: _ClassVar[Change]
CREATE: Verb
UPDATE: Verb
APPLY: Verb
CREATED: Outcome
UPDATED: Outcome
UNCHANGED: Outcome
DELETED: Outcome
ALREADY_EXISTS: Outcome
NOT_FOUND: Outcome
INVALID: Outcome
CONFLICT: Outcome
FAILED: Outcome
ENDED: Outcome
PRESENT: Change
ADDED: Change
MODIFIED: Change
REMOVED: Change
SYNCED: Change

class WriteRequest(_message.Message):
    __slots__ = ("verb", "objects", "dry_run", "uids")
    VERB_FIELD_NUMBER: _ClassVar[int]
    OBJECTS_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    UIDS_FIELD_NUMBER: _ClassVar[int]
    verb: Verb
    objects: _containers.RepeatedScalarFieldContainer[bytes]
    dry_run: bool
    uids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, verb: _Optional[_Union[Verb, str]] = ..., objects: _Optional[_Iterable[bytes]] = ..., dry_run: _Optional[bool] = ..., uids: _Optional[_Iterable[str]] = ...) -> None: ...

class DeleteRequest(_message.Message):
    __slots__ = ("refs", "orphan")
    REFS_FIELD_NUMBER: _ClassVar[int]
    ORPHAN_FIELD_NUMBER: _ClassVar[int]
    refs: _containers.RepeatedCompositeFieldContainer[Ref]
    orphan: bool
    def __init__(self, refs: _Optional[_Iterable[_Union[Ref, _Mapping]]] = ..., orphan: _Optional[bool] = ...) -> None: ...

class Ref(_message.Message):
    __slots__ = ("kind", "name", "uid")
    KIND_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    kind: str
    name: str
    uid: str
    def __init__(self, kind: _Optional[str] = ..., name: _Optional[str] = ..., uid: _Optional[str] = ...) -> None: ...

class WriteResult(_message.Message):
    __slots__ = ("kind", "name", "outcome", "message", "uid", "revision")
    KIND_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    kind: str
    name: str
    outcome: Outcome
    message: str
    uid: str
    revision: int
    def __init__(self, kind: _Optional[str] = ..., name: _Optional[str] = ..., outcome: _Optional[_Union[Outcome, str]] = ..., message: _Optional[str] = ..., uid: _Optional[str] = ..., revision: _Optional[int] = ...) -> None: ...

class WriteReply(_message.Message):
    __slots__ = ("results", "revision")
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[WriteResult]
    revision: int
    def __init__(self, results: _Optional[_Iterable[_Union[WriteResult, _Mapping]]] = ..., revision: _Optional[int] = ...) -> None: ...

class ListRequest(_message.Message):
    __slots__ = ("kind", "name", "label_selector")
    KIND_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    LABEL_SELECTOR_FIELD_NUMBER: _ClassVar[int]
    kind: str
    name: str
    label_selector: str
    def __init__(self, kind: _Optional[str] = ..., name: _Optional[str] = ..., label_selector: _Optional[str] = ...) -> None: ...

class Object(_message.Message):
    __slots__ = ("json", "revision", "name")
    JSON_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    json: bytes
    revision: int
    name: str
    def __init__(self, json: _Optional[bytes] = ..., revision: _Optional[int] = ..., name: _Optional[str] = ...) -> None: ...

class ListReply(_message.Message):
    __slots__ = ("objects", "revision")
    OBJECTS_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    objects: _containers.RepeatedCompositeFieldContainer[Object]
    revision: int
    def __init__(self, objects: _Optional[_Iterable[_Union[Object, _Mapping]]] = ..., revision: _Optional[int] = ...) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ("kind", "name", "label_selector", "revision")
    KIND_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    LABEL_SELECTOR_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    kind: str
    name: str
    label_selector: str
    revision: int
    def __init__(self, kind: _Optional[str] = ..., name: _Optional[str] = ..., label_selector: _Optional[str] = ..., revision: _Optional[int] = ...) -> None: ...

class WatchEvent(_message.Message):
    __slots__ = ("change", "object")
    CHANGE_FIELD_NUMBER: _ClassVar[int]
    OBJECT_FIELD_NUMBER: _ClassVar[int]
    change: Change
    object: Object
    def __init__(self, change: _Optional[_Union[Change, str]] = ..., object: _Optional[_Union[Object, _Mapping]] = ...) -> None: ...

class WatchReply(_message.Message):
    __slots__ = ("events", "revision")
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[WatchEvent]
    revision: int
    def __init__(self, events: _Optional[_Iterable[_Union[WatchEvent, _Mapping]]] = ..., revision: _Optional[int] = ...) -> None: ...

class LogsRequest(_message.Message):
    __slots__ = ("name", "unit", "lines", "limit_bytes", "follow")
    NAME_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    LINES_FIELD_NUMBER: _ClassVar[int]
    LIMIT_BYTES_FIELD_NUMBER: _ClassVar[int]
    FOLLOW_FIELD_NUMBER: _ClassVar[int]
    name: str
    unit: str
    lines: int
    limit_bytes: int
    follow: bool
    def __init__(self, name: _Optional[str] = ..., unit: _Optional[str] = ..., lines: _Optional[int] = ..., limit_bytes: _Optional[int] = ..., follow: _Optional[bool] = ...) -> None: ...

class LogChunk(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...

class VersionRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class VersionReply(_message.Message):
    __slots__ = ("version", "cluster", "cluster_uuid")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_UUID_FIELD_NUMBER: _ClassVar[int]
    version: str
    cluster: str
    cluster_uuid: str
    def __init__(self, version: _Optional[str] = ..., cluster: _Optional[str] = ..., cluster_uuid: _Optional[str] = ...) -> None: ...

class OffersRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class OffersReply(_message.Message):
    __slots__ = ("region", "default_instance_type", "default_volume_size", "full")
    REGION_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_INSTANCE_TYPE_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_VOLUME_SIZE_FIELD_NUMBER: _ClassVar[int]
    FULL_FIELD_NUMBER: _ClassVar[int]
    region: str
    default_instance_type: str
    default_volume_size: str
    full: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, region: _Optional[str] = ..., default_instance_type: _Optional[str] = ..., default_volume_size: _Optional[str] = ..., full: _Optional[_Iterable[bytes]] = ...) -> None: ...

class DumpRequest(_message.Message):
    __slots__ = ("what",)
    WHAT_FIELD_NUMBER: _ClassVar[int]
    what: str
    def __init__(self, what: _Optional[str] = ...) -> None: ...

class DumpChunk(_message.Message):
    __slots__ = ("name", "json")
    NAME_FIELD_NUMBER: _ClassVar[int]
    JSON_FIELD_NUMBER: _ClassVar[int]
    name: str
    json: bytes
    def __init__(self, name: _Optional[str] = ..., json: _Optional[bytes] = ...) -> None: ...
