"""The two kinds of error that controllers know, with named causes below them.

Adapters (etcd, gRPC, a cloud's SDK) translate their library's errors into these, and nothing above an adapter
catches a library's error. ``Retryable``: the same call may succeed later. ``Terminal``: it will not, however often.
"""

from enum import StrEnum


class MilpaError(Exception):
    """Base of all errors that Milpa raises on purpose. ``str()`` is fit for a user."""


class Retryable(MilpaError):
    """The same call may succeed later; the caller backs off and asks again."""


class Terminal(MilpaError):
    """The call will never succeed as it is; something in it must change."""


class StoreUnavailable(Retryable):
    """No endpoint of the store answered in time. Of a commit it is unknown whether it took effect."""


class Compacted(Retryable):
    """The asked revision is gone from the store; list anew and watch from there."""

    def __init__(self, compact_revision: int) -> None:
        super().__init__(f"revision compacted; the oldest left is {compact_revision}")
        self.compact_revision = compact_revision


class StoreFull(Retryable):
    """The store has reached its space quota; it takes deletions and compaction only."""


class LeaseGone(Terminal):
    """A key was to be put with a lease that has run out; nothing was written. Grant a new one."""


class CloudThrottled(Retryable):
    """The cloud refused the call for its rate; ask again with the same token after a back-off."""


class CloudUnavailable(Retryable):
    """The cloud did not answer or answered with an internal error; nothing is known about the call's effect."""


class CloudNotReady(Retryable):
    """Somebody has to mend something at the cloud before the same call works: no boot image has the wanted tags, a
    permission or a subnet is missing, the account is not active. The message says what and how."""


class CapacityScope(StrEnum):
    """How far a lack of capacity reaches, for one capacity type (spot or on-demand) unless it says more."""

    TYPE = "type"
    """The instance type in the zone."""
    SUBNET = "subnet"
    """Addresses: every type of both capacity types, in the zone, for instances that are as public or private."""
    FAMILY = "family"
    """All types of the family, or of its quota, in every zone."""
    SPOT = "spot"
    """All spot."""


class NoCapacity(Terminal):
    """The cloud has no such instance now. ``code`` is the cloud's error code (EC2's names)."""

    def __init__(self, code: str, message: str, scope: CapacityScope = CapacityScope.TYPE) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.scope = scope


class LaunchOutdated(Terminal):
    """What the recorded launch names (boot image, subnet, security group) is gone, or its token's instances are:
    nothing is launched by it any more, but the same wish prepared anew may be."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


class LaunchRejected(Terminal):
    """The cloud refuses the launch for what it asks (bad type, bad image, no permission)."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


class CloudRefused(Terminal):
    """The cloud refuses a call other than a launch for good. ``code`` is the cloud's error code."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


class NameTaken(Terminal):
    """The cluster's name belongs to another installation. The message says whose, since when, and the remedy."""


class AgentUnreachable(Retryable):
    """The node's agent did not answer in time."""


class AgentRefused(Terminal):
    """The node's agent answered and refused for good (bad request, another pod is bound to it)."""


class StaleToken(Terminal):
    """The agent has seen a newer owner's token; this owner is deposed. Holds the agent's (term, revision)."""

    def __init__(self, term: int, revision: int) -> None:
        super().__init__(f"a newer owner (term {term}, revision {revision}) has spoken to the agent")
        self.term = term
        self.revision = revision


class NotFound(Terminal):
    """No object of that kind and name."""


class AlreadyExists(Terminal):
    """An object of that kind and name exists, with another uid."""


class Ended(Terminal):
    """The object has ended, or is being deleted; only a new one in its place helps."""


class Conflict(Retryable):
    """The object was changed meanwhile; read it again."""


class Invalid(Terminal):
    """The request or manifest is wrong. The message names the field, the reason and the remedy."""


class ApiUnavailable(Retryable):
    """No API server answered in time. Of a write it is unknown whether it took effect; repeating it is safe."""


class PermissionDenied(Terminal):
    """The certificate shown does not open the API server."""


class WatchExpired(Retryable):
    """The watch fell behind, or its revision is too old: list anew and watch from there."""


def first_cause(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first single error in a group, however deep: a nested group's own text says nothing."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
