"""Dump: the internal state of server and controllers, for debugging. Secrets' values never leave."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from inspect import isawaitable
from typing import Any

from milpa_ray.api import KINDS, find_kind
from milpa_ray.errors import Invalid
from milpa_ray.proto import milpa_pb2 as pb
from milpa_ray.server.reads import Reader

ServerState = Callable[[], Mapping[str, Any]]
DumpControllers = Callable[[], Mapping[str, Any] | Awaitable[Mapping[str, Any]]]
"""Gives the state of the controllers by name, JSON-ready (what is not is shown as text)."""

CONTROLLERS = "controllers"


class Dumper:
    """Answers Dump. ``server_state`` is the API server's own."""

    def __init__(self, reader: Reader, server_state: ServerState, controllers: DumpControllers) -> None:
        self._reader = reader
        self._server_state = server_state
        self._controllers = controllers

    async def dump(self, what: str) -> AsyncIterator[pb.DumpChunk]:
        """The state asked for; objects of a kind come in several chunks of its name. Raises ``Invalid``."""
        what = what or "all"
        kind = find_kind(what)
        if kind is not None:
            async for chunk in self._objects(kind.name):
                yield chunk
            return
        states: dict[str, Any] = {"server": self._server_state()}
        if what != "server":
            given = self._controllers()
            states |= await given if isawaitable(given) else given
        if what == CONTROLLERS:
            states.pop("server")
        if what == "all":
            for known in KINDS:
                async for chunk in self._objects(known.name):
                    yield chunk
        elif what not in (CONTROLLERS, *states):
            names = ", ".join(["all", CONTROLLERS, *(known.plural for known in KINDS), *sorted(states)])
            raise Invalid(f"there is nothing called {what!r} to dump; there are {names}")
        for name, state in states.items():
            if what in ("all", CONTROLLERS, name):
                yield pb.DumpChunk(name=name, json=json.dumps(state, default=str).encode())

    async def _objects(self, kind: str) -> AsyncIterator[pb.DumpChunk]:
        async for reply in self._reader.list(pb.ListRequest(kind=kind)):
            yield pb.DumpChunk(name=kind, json=b"[" + b",".join(found.json for found in reply.objects) + b"]")
