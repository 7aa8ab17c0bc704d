"""gRPC errors of etcd, as Milpa's. The only place that reads etcd's error texts."""

import grpc

from milpa_ray.errors import Compacted, Invalid, LeaseGone, MilpaError, StoreFull, StoreUnavailable

_CODE = grpc.StatusCode
_GONE_SILENT = frozenset({_CODE.UNAVAILABLE, _CODE.DEADLINE_EXCEEDED, _CODE.CANCELLED, _CODE.INTERNAL, _CODE.UNKNOWN})


def translate(error: grpc.RpcError, endpoint: str, revision: int = 0) -> MilpaError | ValueError:
    """The error to raise instead. ``revision`` is the one that the call asked for."""
    code, details = error.code(), error.details() or ""
    if code in _GONE_SILENT or "too many requests" in details:
        return StoreUnavailable(f"etcd at {endpoint} did not answer: {details or code.name}")
    if "compacted" in details:
        # etcd does not say up to where; what was asked is gone, so the oldest left is at least the next.
        return Compacted(revision + 1)
    if "database space exceeded" in details:
        return StoreFull("etcd has reached its space quota: compact, defragment and disarm its alarm")
    if "lease not found" in details:
        return LeaseGone("the lease has run out; nothing was written")
    if code in (_CODE.UNAUTHENTICATED, _CODE.PERMISSION_DENIED):
        return Invalid(f"etcd at {endpoint} refuses us: {details}; check its users and the certificate")
    return ValueError(f"etcd refuses the request: {code.name}: {details}")


def never_sent(error: grpc.RpcError) -> bool:
    """Whether the call certainly had no effect: the connection was not even made, or the member has no leader."""
    details = error.details() or ""
    return error.code() is _CODE.UNAVAILABLE and (
        details.startswith("failed to connect to all addresses") or details.endswith("etcdserver: no leader")
    )
