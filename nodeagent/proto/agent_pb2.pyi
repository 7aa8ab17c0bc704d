from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Token(_message.Message):
    __slots__ = ("term", "revision")
    TERM_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    term: int
    revision: int
    def __init__(self, term: _Optional[int] = ..., revision: _Optional[int] = ...) -> None: ...

class HelloRequest(_message.Message):
    __slots__ = ("token",)
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    token: Token
    def __init__(self, token: _Optional[_Union[Token, _Mapping]] = ...) -> None: ...

class HelloReply(_message.Message):
    __slots__ = ("node_name", "version", "pod_uid", "generation", "stopped", "enrolled")
    NODE_NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    POD_UID_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    STOPPED_FIELD_NUMBER: _ClassVar[int]
    ENROLLED_FIELD_NUMBER: _ClassVar[int]
    node_name: str
    version: str
    pod_uid: str
    generation: int
    stopped: bool
    enrolled: bool
    def __init__(self, node_name: _Optional[str] = ..., version: _Optional[str] = ..., pod_uid: _Optional[str] = ..., generation: _Optional[int] = ..., stopped: _Optional[bool] = ..., enrolled: _Optional[bool] = ...) -> None: ...

class CsrRequest(_message.Message):
    __slots__ = ("token", "node_name")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    NODE_NAME_FIELD_NUMBER: _ClassVar[int]
    token: Token
    node_name: str
    def __init__(self, token: _Optional[_Union[Token, _Mapping]] = ..., node_name: _Optional[str] = ...) -> None: ...

class CsrReply(_message.Message):
    __slots__ = ("csr_pem",)
    CSR_PEM_FIELD_NUMBER: _ClassVar[int]
    csr_pem: bytes
    def __init__(self, csr_pem: _Optional[bytes] = ...) -> None: ...

class EnrollRequest(_message.Message):
    __slots__ = ("token", "node_name", "certificate_pem")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    NODE_NAME_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_PEM_FIELD_NUMBER: _ClassVar[int]
    token: Token
    node_name: str
    certificate_pem: bytes
    def __init__(self, token: _Optional[_Union[Token, _Mapping]] = ..., node_name: _Optional[str] = ..., certificate_pem: _Optional[bytes] = ...) -> None: ...

class EnrollReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Login(_message.Message):
    __slots__ = ("server", "username", "password")
    SERVER_FIELD_NUMBER: _ClassVar[int]
    USERNAME_FIELD_NUMBER: _ClassVar[int]
    PASSWORD_FIELD_NUMBER: _ClassVar[int]
    server: str
    username: str
    password: str
    def __init__(self, server: _Optional[str] = ..., username: _Optional[str] = ..., password: _Optional[str] = ...) -> None: ...

class DispatchRequest(_message.Message):
    __slots__ = ("token", "pod_json", "logins", "dns_servers", "dns_search", "insecure_registries")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    POD_JSON_FIELD_NUMBER: _ClassVar[int]
    LOGINS_FIELD_NUMBER: _ClassVar[int]
    DNS_SERVERS_FIELD_NUMBER: _ClassVar[int]
    DNS_SEARCH_FIELD_NUMBER: _ClassVar[int]
    INSECURE_REGISTRIES_FIELD_NUMBER: _ClassVar[int]
    token: Token
    pod_json: bytes
    logins: _containers.RepeatedCompositeFieldContainer[Login]
    dns_servers: _containers.RepeatedScalarFieldContainer[str]
    dns_search: _containers.RepeatedScalarFieldContainer[str]
    insecure_registries: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, token: _Optional[_Union[Token, _Mapping]] = ..., pod_json: _Optional[bytes] = ..., logins: _Optional[_Iterable[_Union[Login, _Mapping]]] = ..., dns_servers: _Optional[_Iterable[str]] = ..., dns_search: _Optional[_Iterable[str]] = ..., insecure_registries: _Optional[_Iterable[str]] = ...) -> None: ...

class DispatchReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Report(_message.Message):
    __slots__ = ("sequence", "pod_uid", "generation", "units_json", "init_units_json", "stopped", "interruption_at")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    POD_UID_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    UNITS_JSON_FIELD_NUMBER: _ClassVar[int]
    INIT_UNITS_JSON_FIELD_NUMBER: _ClassVar[int]
    STOPPED_FIELD_NUMBER: _ClassVar[int]
    INTERRUPTION_AT_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    pod_uid: str
    generation: int
    units_json: bytes
    init_units_json: bytes
    stopped: bool
    interruption_at: str
    def __init__(self, sequence: _Optional[int] = ..., pod_uid: _Optional[str] = ..., generation: _Optional[int] = ..., units_json: _Optional[bytes] = ..., init_units_json: _Optional[bytes] = ..., stopped: _Optional[bool] = ..., interruption_at: _Optional[str] = ...) -> None: ...

class StopRequest(_message.Message):
    __slots__ = ("token", "pod_uid", "grace_s")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    POD_UID_FIELD_NUMBER: _ClassVar[int]
    GRACE_S_FIELD_NUMBER: _ClassVar[int]
    token: Token
    pod_uid: str
    grace_s: float
    def __init__(self, token: _Optional[_Union[Token, _Mapping]] = ..., pod_uid: _Optional[str] = ..., grace_s: _Optional[float] = ...) -> None: ...

class StopReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class LogsRequest(_message.Message):
    __slots__ = ("unit", "lines", "limit_bytes", "follow")
    UNIT_FIELD_NUMBER: _ClassVar[int]
    LINES_FIELD_NUMBER: _ClassVar[int]
    LIMIT_BYTES_FIELD_NUMBER: _ClassVar[int]
    FOLLOW_FIELD_NUMBER: _ClassVar[int]
    unit: str
    lines: int
    limit_bytes: int
    follow: bool
    def __init__(self, unit: _Optional[str] = ..., lines: _Optional[int] = ..., limit_bytes: _Optional[int] = ..., follow: _Optional[bool] = ...) -> None: ...

class LogChunk(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...
