"""The Python client: submit pods, wait for them, stream their logs, watch and delete them.

``Client`` blocks, ``AsyncClient`` has the same methods as coroutines and async iterators. Importing this package is
cheap: gRPC and the API types are imported at the first call that needs them.
"""

from typing import TYPE_CHECKING, Any

from milpa_ray.client.results import (
    Change,
    ClusterOffers,
    Outcome,
    Ref,
    ServerVersion,
    WaitFailed,
    WaitTimeout,
    WatchEvent,
    WriteFailed,
    WriteResult,
)
from milpa_ray.client.sync import Client

if TYPE_CHECKING:
    from milpa_ray.client.aio import AsyncClient

__all__ = [
    "AsyncClient",
    "Change",
    "Client",
    "ClusterOffers",
    "Outcome",
    "Ref",
    "ServerVersion",
    "WaitFailed",
    "WaitTimeout",
    "WatchEvent",
    "WriteFailed",
    "WriteResult",
]


def __getattr__(name: str) -> Any:
    # asyncio costs a sync client's start-up 30 ms that it has no use for.
    if name == "AsyncClient":
        from milpa_ray.client.aio import AsyncClient

        return AsyncClient
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
