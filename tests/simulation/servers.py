"""API servers in the simulation: the real cache, writes, deletes and reads, without gRPC, and the users' way to them.

A request runs inside its server's process, so it dies and pauses with it. The user's side may lose a request or an
answer, and then asks any server again, as the client library does.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import Context
from dataclasses import dataclass
from random import Random
from typing import TypeVar

from milpa_ray.errors import ApiUnavailable, NotFound
from milpa_ray.events import EventRecorder
from milpa_ray.proto import milpa_pb2 as pb
from milpa_ray.server.cache import WatchCache
from milpa_ray.server.commit_queue import CommitQueue
from milpa_ray.server.deletes import Deleter
from milpa_ray.server.peers import Peers
from milpa_ray.server.reads import Reader
from milpa_ray.server.staleness import QuickReads
from milpa_ray.server.turns import Turns
from milpa_ray.server.writes import WriteContext, Writer
from tests.simulation.loop import CURRENT, SimLoop
from tests.simulation.process import SimProcess, in_world
from tests.simulation.world import Ports

T = TypeVar("T")


@dataclass(slots=True)
class UserFaults:
    """Probabilities per call; seconds."""

    latency_s: float = 0.01
    lost: float = 0.03
    lost_answer: float = 0.05
    timeout_s: float = 15.0

    def heal(self) -> None:
        self.lost = self.lost_answer = 0.0


class Api:
    """What one server offers."""

    def __init__(
        self, process: SimProcess, writer: Writer, deleter: Deleter, reader: Reader, acknowledged: dict[str, int]
    ) -> None:
        self.process = process
        self._writer = writer
        self._deleter = deleter
        self._reader = reader
        self._acknowledged = acknowledged

    async def write(self, request: pb.WriteRequest) -> pb.WriteResult:
        return self._remember((await self._writer.write(request))[0])

    async def delete(self, request: pb.DeleteRequest) -> pb.WriteResult:
        return self._remember((await self._deleter.delete(request))[0])

    def _remember(self, result: pb.WriteResult) -> pb.WriteResult:
        self._acknowledged[result.name] = max(result.revision, self._acknowledged.get(result.name, 0))
        return result

    async def read(self, name: str) -> pb.Object | None:
        """The pod of that name, or None."""
        try:
            return (await anext(self._reader.list(pb.ListRequest(kind="Pod", name=name)))).objects[0]
        except NotFound:
            return None


class ApiServers:
    """The servers that there are now, by the names of their places, and the network to them."""

    def __init__(self, loop: SimLoop, rng: Random, faults: UserFaults) -> None:
        self._loop = loop
        self._rng = rng
        self.faults = faults
        self._serving: dict[str, Api] = {}
        self.acknowledged: dict[str, int] = {}
        """Revision of each pod's last write that any server has acknowledged."""

    async def serve(self, ports: Ports) -> None:
        """The program of an API server."""
        events = EventRecorder(ports.store, ports.keys, ports.clock, ports.process.name)
        cache, turns = WatchCache(ports.store, ports.keys), Turns(ports.clock)
        peers = Peers(ports.store, ports.keys, cache, ports.process.name)
        quick = QuickReads(cache, peers)
        queue = CommitQueue(ports.store, peers.entered, quick.acknowledge)
        context = WriteContext(ports.keys, ports.clock, cache, queue, turns, events)
        cache.start()
        peers.start()
        quick.start()
        queue.start()
        events.start()
        reader = Reader(ports.store, ports.keys, cache, quick, turns)
        writer, deleter = Writer(context), Deleter(context)
        self._serving[ports.process.name] = Api(ports.process, writer, deleter, reader, self.acknowledged)
        await asyncio.Event().wait()

    async def ask(self, question: Callable[[Api], Awaitable[T]]) -> T:
        """Asks any server once.

        Raises:
            ApiUnavailable: no answer; of a write it is unknown whether it took effect.
            MilpaError: what the server answered.
        """
        rng, faults = self._rng, self.faults
        if not self._serving:
            await asyncio.sleep(faults.latency_s)
            raise ApiUnavailable("simulated: no server yet")
        api = self._serving[rng.choice(sorted(self._serving))]
        await asyncio.sleep(rng.random() * faults.latency_s)
        if not api.process.alive or rng.random() < faults.lost:
            raise ApiUnavailable("simulated: the server does not answer")
        context = Context()
        context.run(CURRENT.set, api.process)
        answering = self._loop.create_task(question(api), name="request", context=context)
        # The caller has its own time: the request goes on when the caller has given up.
        waiting = in_world(self._loop, _outcome(answering))
        done, _ = await asyncio.wait([waiting], timeout=faults.timeout_s)
        await asyncio.sleep(rng.random() * faults.latency_s)
        if not done or rng.random() < faults.lost_answer:
            raise ApiUnavailable("simulated: no answer")
        answer = waiting.result()
        if isinstance(answer, BaseException):
            raise answer
        return answer


async def _outcome(task: "asyncio.Task[T]") -> T | BaseException:
    """The task's answer or error, as a value, so that an error nobody waits for is not reported as lost."""
    try:
        return await task
    except Exception as error:
        return error
