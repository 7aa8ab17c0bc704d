"""What the client's methods answer with. Plain data, without gRPC or pydantic, so that importing it costs nothing."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from milpa_ray.errors import Retryable, Terminal

if TYPE_CHECKING:
    from milpa_ray.api import Resource


class Outcome(StrEnum):
    """What became of one object of a write. Order and names follow the protocol's enum."""

    CREATED = "created"
    UPDATED = "updated"
    UNCHANGED = "unchanged"
    DELETED = "deleted"
    ALREADY_EXISTS = "already exists"
    NOT_FOUND = "not found"
    INVALID = "invalid"
    CONFLICT = "conflict"
    FAILED = "failed"
    ENDED = "ended"


SUCCESSES = frozenset({Outcome.CREATED, Outcome.UPDATED, Outcome.UNCHANGED, Outcome.DELETED})


@dataclass(frozen=True, slots=True)
class WriteResult:
    """Result for one object. ``message`` says why when it is not ``ok``; ``revision`` is the store's after the write.

    FAILED means that it is not known whether the write took effect; repeating the call is safe. ENDED: the object has
    ended or is being deleted, so that only a new one in its place helps.
    """

    kind: str
    name: str
    outcome: Outcome
    message: str = ""
    uid: str = ""
    revision: int = 0

    @property
    def ok(self) -> bool:
        return self.outcome in SUCCESSES


class WriteFailed(Terminal):
    """Some objects of a ``submit`` were not created. ``results`` has the outcome of every object, in order."""

    def __init__(self, results: list[WriteResult]) -> None:
        failed = [result for result in results if not result.ok]
        shown = "; ".join(f"{r.kind} {r.name!r}: {r.message or r.outcome}" for r in failed[:5])
        more = f"; and {len(failed) - 5} more" if len(failed) > 5 else ""
        super().__init__(f"{len(failed)} of {len(results)} objects failed: {shown}{more}")
        self.results = results


class WaitFailed(Terminal):
    """What was waited for can no longer happen: the pod ended in another phase, or was deleted."""


class WaitTimeout(Retryable, TimeoutError):
    """What was waited for has not happened in time. The message says what is still missing."""


@dataclass(frozen=True, slots=True)
class Ref:
    """Names one object; with ``uid``, only if it is the one with this uid."""

    kind: str
    name: str
    uid: str = ""


class Change(StrEnum):
    """PRESENT: was there when the watch began. SYNCED: all that were there have been told (has no object)."""

    PRESENT = "present"
    ADDED = "added"
    MODIFIED = "modified"
    REMOVED = "removed"
    SYNCED = "synced"


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """One change. ``json`` is the object as stored (of a removed one its last state or, where that is not known, only
    kind and name); ``revision`` is that of the object's last change."""

    change: Change
    name: str = ""
    json: bytes = b""
    revision: int = 0

    @property
    def resource(self) -> Resource:
        """The object, parsed anew at each call. ``ValueError`` for SYNCED."""
        from milpa_ray.client.calls import parse

        return parse(self.json)


@dataclass(frozen=True, slots=True)
class ServerVersion:
    """Who answers: the server's version, the cluster's name and its uuid."""

    version: str
    cluster: str
    cluster_uuid: str


@dataclass(frozen=True, slots=True)
class ClusterOffers:
    """What the cluster's instances are chosen from. ``default_volume_size`` is a quantity; what the server was not told
    is empty. ``full`` are the stored memories of failed launches, which ``controller.capacity`` reads."""

    region: str
    default_instance_type: str
    default_volume_size: str
    full: tuple[bytes, ...] = ()
