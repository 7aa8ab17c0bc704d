"""Results of writes, and what the outcome of a commit means for them."""

from milpa_ray.errors import AlreadyExists, Conflict, Ended, Invalid, MilpaError, NotFound, StoreFull, StoreUnavailable
from milpa_ray.proto import milpa_pb2 as pb
from milpa_ray.store.group import GroupOutcome, Verdict

_BY_ERROR: dict[type[MilpaError], pb.Outcome] = {
    Invalid: pb.INVALID,
    Conflict: pb.CONFLICT,
    NotFound: pb.NOT_FOUND,
    AlreadyExists: pb.ALREADY_EXISTS,
    Ended: pb.ENDED,
}


def failed(kind: str, name: str, error: MilpaError) -> pb.WriteResult:
    """The result for an object that was refused."""
    outcome = _BY_ERROR.get(type(error), pb.FAILED)
    return pb.WriteResult(kind=kind, name=name, outcome=outcome, message=str(error))


def raise_if_lost(outcome: GroupOutcome) -> None:
    """Raises for a write whose fate is the store's trouble: the whole call is to be repeated, which is safe.

    Raises:
        StoreUnavailable: the write may or may not have taken effect.
        StoreFull: nothing can be written now.
    """
    if outcome.verdict is Verdict.UNKNOWN or isinstance(outcome.error, StoreUnavailable):
        raise StoreUnavailable(f"the store does not answer ({outcome.error or 'the answer was lost'}); repeat the call")
    if isinstance(outcome.error, StoreFull):
        raise StoreFull("the store has reached its space quota; nothing can be written until it is compacted")
    if outcome.verdict is Verdict.NOT_DONE and outcome.error is None:
        raise StoreUnavailable("the store stopped answering before this was written; repeat the call")
