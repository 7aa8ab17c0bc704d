"""The network between controllers and the machines' agents: calls that are late, lost or doubled, and partitions.

A call that the caller has given up may still arrive, after a pause of seconds and after a newer owner's calls. An
address may belong to another instance by then; the identity that the caller demands tells them apart.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import Context
from dataclasses import dataclass
from random import Random
from typing import TypeVar

from milpa_ray.errors import AgentUnreachable
from milpa_ray.ports import Agent, AgentAddress, AgentReport, DesiredPod, Hello, Token
from tests.simulation.loop import CURRENT, SimLoop
from tests.simulation.machines import Machine
from tests.simulation.process import Passage, SimProcess, in_world, remote
from tests.simulation.store import Rates

T = TypeVar("T")
MOST_CALLS_PER_S = 40
POOR = 0.15
CallObserver = Callable[[SimProcess, Machine, str, Token, str], None]


@dataclass(slots=True)
class NetworkFaults:
    """Probabilities per call, durations in seconds."""

    latency_s: float = 0.01
    timeout_s: float = 3.0
    lost: float = 0.03
    lost_answer: float = 0.03
    late: float = 0.02
    late_s: float = 20.0
    doubled: float = 0.03
    stream_breaks: float = 0.03
    heartbeat_s: float = 10.0

    @property
    def poor(self) -> bool:
        """A call fails so often that many in a row may fail."""
        return self.lost + self.lost_answer + self.late > POOR

    def heal(self) -> None:
        self.lost = self.lost_answer = self.late = self.doubled = self.stream_breaks = 0.0


class Network:
    """Who reaches whom. ``observe`` is told every call that an agent carried out."""

    def __init__(self, loop: SimLoop, faults: NetworkFaults) -> None:
        self.loop = loop
        self.faults = faults
        self.by_ip: dict[str, Machine] = {}
        self.rates = Rates(loop)
        self.cut: set[tuple[str, str]] = set()
        self.observe: CallObserver = lambda process, machine, verb, token, uid: None
        self.trace: Callable[..., None] = lambda *words: None

    def dialer(self, process: SimProcess, rng: Random) -> "SimDialer":
        return SimDialer(self, process, rng)

    def machine(self, process: SimProcess, address: AgentAddress) -> Machine:
        """The machine that answers there now, if the two reach each other and its certificate is the wanted one."""
        machine = self.by_ip.get(address.host)
        if machine is None or not machine.agent_up or (process.name, machine.instance.id) in self.cut:
            raise AgentUnreachable(f"simulated: nothing answers at {address.host}")
        if not machine.proves(address.identity):
            raise AgentUnreachable(f"simulated: {address.host} is not {address.identity}")
        return machine


@dataclass(slots=True)
class SimDialer:
    """An ``AgentDialer`` for one process."""

    network: Network
    process: SimProcess
    rng: Random

    def dial(self, address: AgentAddress) -> Agent:
        return SimAgent(self.network, self.process, self.rng, address)


class SimAgent:
    """One process's client of the agent at an address."""

    def __init__(self, network: Network, process: SimProcess, rng: Random, address: AgentAddress) -> None:
        self._network = network
        self._process = process
        self._rng = rng
        self._address = address
        self._closed = False

    async def hello(self, token: Token) -> Hello:
        async def work(machine: Machine) -> Hello:
            return machine.hello(token)

        return await self._call("hello", token, "", work)

    async def enroll(self, token: Token, node_name: str) -> None:
        async def work(machine: Machine) -> None:
            machine.enroll(token, node_name)

        await self._call("enroll", token, "", work)

    async def dispatch(self, token: Token, desired: DesiredPod) -> None:
        async def work(machine: Machine) -> None:
            machine.dispatch(token, desired.pod)

        await self._call("dispatch", token, desired.pod.uid, work)

    async def stop(self, token: Token, pod_uid: str, grace_s: float) -> None:
        async def work(machine: Machine) -> None:
            await machine.stop(token, pod_uid, grace_s)

        await self._call("stop", token, pod_uid, work, extra_s=grace_s)

    async def logs(
        self, unit: str, *, lines: int = 0, limit_bytes: int = 0, follow: bool = False
    ) -> AsyncIterator[bytes]:
        async def work(machine: Machine) -> bytes:
            return f"{machine.instance.id} {unit}\n".encode()

        yield await self._call("logs", None, "", work)

    async def watch(self) -> AsyncIterator[AgentReport]:
        self._may_call()
        inbox: asyncio.Queue[AgentReport | Exception] = asyncio.Queue()
        pump = in_world(self._network.loop, self._pump(inbox))
        self._process.on_exit.append(lambda: self._network.loop.call_soon(pump.cancel, context=Context()))
        try:
            while True:
                report = await inbox.get()
                if isinstance(report, Exception):
                    raise report
                yield report
        finally:
            pump.cancel()

    async def close(self) -> None:
        self._closed = True

    async def _pump(self, inbox: "asyncio.Queue[AgentReport | Exception]") -> None:
        """The agent's side of a watch: the whole status, changes, heartbeats; breaks when the way does."""
        faults, rng, known = self._network.faults, self._rng, None
        try:
            await asyncio.sleep(rng.random() * faults.latency_s)
            session = self._machine().sessions
            while True:
                machine = self._machine()
                if machine.sessions != session or rng.random() < faults.stream_breaks:
                    raise AgentUnreachable("simulated: the stream broke")
                report = machine.report(known)
                known = report.sequence
                changed = machine.changed
                await asyncio.sleep(rng.random() * faults.latency_s)
                inbox.put_nowait(report)
                if known == machine.sequence:
                    await self._wait(changed, faults.heartbeat_s)
        except AgentUnreachable as error:
            await asyncio.sleep(rng.random() * faults.timeout_s)  # a broken way is not noticed at once
            inbox.put_nowait(error)

    @staticmethod
    async def _wait(changed: asyncio.Event, heartbeat_s: float) -> None:
        try:
            async with asyncio.timeout(heartbeat_s):
                await changed.wait()
        except TimeoutError:
            return

    def _machine(self) -> Machine:
        if self._closed:
            raise AgentUnreachable("simulated: the channel is closed")
        return self._network.machine(self._process, self._address)

    async def _call(
        self,
        verb: str,
        token: Token | None,
        uid: str,
        work: Callable[[Machine], Awaitable[T]],
        extra_s: float = 0.0,
    ) -> T:
        self._may_call()

        async def there() -> T:
            machine = self._machine()
            answer = await work(machine)
            if token is not None:
                self._network.trace(self._process, verb, machine.instance.id, uid, f"{token.term}/{token.revision}")
                self._network.observe(self._process, machine, verb, token, uid)
            return answer

        faults, rng = self._network.faults, self._rng
        if token is not None and rng.random() < faults.doubled:
            in_world(self._network.loop, self._again(there, rng.random() * faults.late_s))
        return await remote(self._network.loop, self._passage(extra_s), there)

    @staticmethod
    async def _again(there: Callable[[], Awaitable[T]], after_s: float) -> None:
        """The same message once more, later; nobody hears the answer."""
        await asyncio.sleep(after_s)
        try:
            await there()
        except Exception:
            return

    def _may_call(self) -> None:
        if not self._process.alive or CURRENT.get() is not self._process:
            raise asyncio.CancelledError  # only after the end of the run
        self._network.rates.count(self._process.name, self._address.host, MOST_CALLS_PER_S)

    def _passage(self, extra_s: float) -> Passage:
        faults, rng = self._network.faults, self._rng
        there, back = rng.random() * faults.latency_s, rng.random() * faults.latency_s
        unreachable = AgentUnreachable(f"simulated: no answer from {self._address.host}")
        draw = rng.random()
        if draw < faults.lost:
            return Passage(error=unreachable, error_s=faults.timeout_s, drop=True)
        draw -= faults.lost
        if draw < faults.lost_answer:
            return Passage(request_s=there, error=unreachable, error_s=faults.timeout_s + extra_s)
        draw -= faults.lost_answer
        if draw < faults.late:
            late = rng.random() * faults.late_s
            return Passage(request_s=late, error=unreachable, error_s=min(late, faults.timeout_s))
        return Passage(request_s=there, response_s=back)
