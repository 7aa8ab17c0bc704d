"""Guards every call: who may call at all, and how the domain's errors become gRPC's."""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn, TypeAlias

import grpc

from milpa_ray.errors import (
    AlreadyExists,
    Conflict,
    Invalid,
    MilpaError,
    NotFound,
    PermissionDenied,
    Retryable,
    StoreFull,
    StoreUnavailable,
    Terminal,
    WatchExpired,
)
from milpa_ray.ports import CLIENT_IDENTITY

# The first that fits.
_CODES: tuple[tuple[type[MilpaError], grpc.StatusCode], ...] = (
    (NotFound, grpc.StatusCode.NOT_FOUND),
    (Invalid, grpc.StatusCode.INVALID_ARGUMENT),
    (AlreadyExists, grpc.StatusCode.ALREADY_EXISTS),
    (PermissionDenied, grpc.StatusCode.PERMISSION_DENIED),
    (WatchExpired, grpc.StatusCode.OUT_OF_RANGE),
    (Conflict, grpc.StatusCode.ABORTED),
    (StoreUnavailable, grpc.StatusCode.UNAVAILABLE),
    (StoreFull, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (Terminal, grpc.StatusCode.FAILED_PRECONDITION),
    (Retryable, grpc.StatusCode.UNAVAILABLE),
)
MAX_DETAILS = 4_000
"""Longest text of an error, in characters: gRPC carries it in a header of limited size."""

log = logging.getLogger(__name__)

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"  # quoted: generic for the type checker only


class Guard(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    """With ``tls`` only the holder of a client certificate of ours may call; those of nodes and agents, though signed
    by the same CA, may not."""

    def __init__(self, *, tls: bool) -> None:
        self._tls = tls

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(
                self._stream(handler.unary_stream), handler.request_deserializer, handler.response_serializer
            )
        return grpc.unary_unary_rpc_method_handler(
            self._unary(handler.unary_unary), handler.request_deserializer, handler.response_serializer
        )

    def _unary(self, method: Callable[[Any, Context], Awaitable[Any]]) -> Callable[[Any, Context], Awaitable[Any]]:
        async def guarded(request: Any, context: Context) -> Any:
            try:
                self._check(context)
                return await method(request, context)
            except Exception as error:
                await _abort(context, error)

        return guarded

    def _stream(
        self, method: Callable[[Any, Context], AsyncIterator[Any]]
    ) -> Callable[[Any, Context], AsyncIterator[Any]]:
        async def guarded(request: Any, context: Context) -> AsyncIterator[Any]:
            try:
                self._check(context)
                async for reply in method(request, context):
                    yield reply
            except Exception as error:
                await _abort(context, error)

        return guarded

    def _check(self, context: Context) -> None:
        if not self._tls:
            return
        names = context.auth_context().get("x509_subject_alternative_name", [])
        if CLIENT_IDENTITY.encode() not in names:
            shown = ", ".join(name.decode(errors="replace") for name in names) or "no name"
            raise PermissionDenied(
                f"the certificate shown is for {shown}; the API server is opened by client.crt of the certificate "
                "folder only"
            )


async def _abort(context: Context, error: Exception) -> NoReturn:
    """Ends the call with the error's code and text. gRPC's own errors, such as an earlier abort, pass."""
    if isinstance(error, grpc.aio.AbortError):
        raise error
    for kind, code in _CODES:
        if isinstance(error, kind):
            await context.abort(code, str(error)[:MAX_DETAILS])
    log.error("a call failed", exc_info=error)
    await context.abort(grpc.StatusCode.INTERNAL, f"internal error ({type(error).__name__}); the server's log has more")
