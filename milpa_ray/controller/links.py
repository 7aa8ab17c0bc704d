"""One link per node: dials the agent, says hello, enrols it, follows its reports.

A link only observes and carries calls; what to call is the planner's. While a link is ``ready`` its agent has heard
this owner's token and refuses older owners.
"""

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass

from milpa_ray.api.node import Node, NodePhase
from milpa_ray.api.pod import UnitStatus
from milpa_ray.controller.pacing import Backoff
from milpa_ray.errors import MilpaError, Retryable, StaleToken
from milpa_ray.limits import Limits
from milpa_ray.planner.snapshot import AgentFacts
from milpa_ray.ports import (
    AGENT_PORT,
    Agent,
    AgentAddress,
    AgentDialer,
    AgentReport,
    Token,
    bootstrap_identity,
    node_identity,
)

log = logging.getLogger(__name__)

LINKED_PHASES = frozenset({NodePhase.CREATED, NodePhase.AVAILABLE, NodePhase.CLAIMED, NodePhase.CLEANING})
SILENT_BEATS = 3
"""A watch stream that is silent for so many heartbeats is dialled anew."""
REDIAL_FIRST_S = 0.05
REDIAL_MOST_S = 5.0


class Dialling:
    """Bounds how many agents are dialled at the same time: ``most`` that a pod waits for, and ``most`` others, which
    may be thousands after a restart of the owner and can wait, since their pods run all the same."""

    def __init__(self, most: int) -> None:
        self._awaited = asyncio.Semaphore(most)
        self._others = asyncio.Semaphore(most)

    def place(self, node: Node) -> asyncio.Semaphore:
        """What to hold while this node is dialled."""
        new = node.status.phase in (NodePhase.CREATED, NodePhase.AVAILABLE)
        return self._awaited if new and node.status.bound_pod_name else self._others


@dataclass(frozen=True, slots=True)
class LinkDeps:
    """What all links of one owner share. ``enrol``: agents get certificates of their own (TLS is on).
    ``token`` gives the owner's present token; ``deposed`` is called when an agent knows a newer owner."""

    dialer: AgentDialer
    limits: Limits
    rng: random.Random
    token: Callable[[], Token]
    changed: Callable[[str], None]
    deposed: Callable[[StaleToken], None]
    dialling: Dialling
    enrol: bool


class AgentLink:
    """The link to one node's agent, alive from ``start`` to ``close``."""

    def __init__(self, deps: LinkDeps, node: Node) -> None:
        self._deps = deps
        self.node = node
        self.agent: Agent | None = None
        self.heard = asyncio.get_running_loop().time()
        self.busy: set[str] = set()
        self.backoffs: dict[str, Backoff] = {}
        self.refused = ""
        self.cleaned = False
        self.enrolled = False
        self._report: AgentReport | None = None
        self._dispatched = ("", 0)
        self._stopped_uid = ""
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name=f"link-{self.node.name}")

    def close(self) -> None:
        if self._task is not None:
            self._task.cancel()

    @property
    def silent_s(self) -> float:
        return asyncio.get_running_loop().time() - self.heard

    def facts(self) -> AgentFacts:
        """What the planner may know of this agent."""
        report = self._report
        units: tuple[UnitStatus, ...] | None = None if report is None else report.units or ()
        uid = report.pod_uid if report else ""
        busy = frozenset(self.busy)
        sent_uid, sent_generation = self._dispatched
        shown = report is not None and uid == sent_uid and report.generation >= sent_generation
        if sent_uid and not shown:
            busy |= {"dispatch"}
        return AgentFacts(
            ready=self.agent is not None,
            silent_s=self.silent_s,
            enrolled=self.enrolled,
            pod_uid=uid or self._stopped_uid,
            generation=report.generation if report else 0,
            stopped=(report is not None and report.stopped) or bool(self._stopped_uid),
            units=units,
            init_units=report.init_units if report else (),
            refused=self.refused,
            cleaned=self.cleaned,
            busy=busy,
            interruption_at=report.interruption_at if report else None,
        )

    def dispatched(self, pod_uid: str, generation: int) -> None:
        """The agent has acknowledged this dispatch; it is not repeated before its report says otherwise."""
        self._dispatched = (pod_uid, generation)

    def stopped(self, pod_uid: str) -> None:
        """The agent has confirmed the stop."""
        self._stopped_uid = pod_uid

    def report_deposed(self, error: StaleToken) -> None:
        """A call on this link was refused for a newer owner's token."""
        self._deps.deposed(error)

    async def _run(self) -> None:
        backoff = Backoff(self._deps.rng, REDIAL_FIRST_S, REDIAL_MOST_S)
        attempt = 0
        while True:
            identity = self._identity(attempt)
            attempt += 1
            try:
                await self._session(identity, backoff)
                backoff.reset()
            except StaleToken as error:
                self._deps.deposed(error)
            except MilpaError as error:
                if not isinstance(error, Retryable):
                    log.warning("agent of node %s: %s", self.node.name, error)
            finally:
                if self.agent is not None:
                    self.agent = None
                    self._dispatched = ("", 0)
                    self._deps.changed(self.node.name)
            await backoff.sleep()

    def _identity(self, attempt: int) -> str:
        """The TLS name to ask for. Until the record says that the agent has its own certificate it may have either: an
        enrolment whose record was lost has happened all the same."""
        own = node_identity(self.node.name)
        if self.enrolled or self.node.status.identity == "node" or attempt % 2:
            return own
        return bootstrap_identity(self.node.status.batch)

    async def _session(self, identity: str, backoff: Backoff) -> None:
        """One connection: returns after an enrolment (dial anew, with the new identity), else ends by an error."""
        deps = self._deps
        agent = deps.dialer.dial(AgentAddress(self.node.private_ip, identity, AGENT_PORT))
        try:
            async with deps.dialling.place(self.node):
                hello = await agent.hello(deps.token())
                if hello.node_name and hello.node_name != self.node.name:
                    # The address was given to another instance; ours is gone, and the cloud will say so.
                    raise Retryable(f"{self.node.private_ip} answers as node {hello.node_name}")
                self.heard = asyncio.get_running_loop().time()
                if deps.enrol and not hello.enrolled:
                    await agent.enroll(deps.token(), self.node.name)
                    self.enrolled = True
                    return
                self.enrolled = hello.enrolled
            await self._follow(agent, backoff)
        finally:
            await agent.close()

    async def _follow(self, agent: Agent, backoff: Backoff) -> None:
        loop = asyncio.get_running_loop()
        patience = self._deps.limits.heartbeat_s * SILENT_BEATS
        try:
            async with asyncio.timeout(patience) as silence:
                async for report in agent.watch():
                    self.heard = loop.time()
                    silence.reschedule(self.heard + patience)
                    if self.agent is None:
                        self.agent = agent
                        backoff.reset()
                    elif report.units is None:
                        continue
                    self._take(report)
        except TimeoutError as error:
            raise Retryable("its watch stream fell silent") from error

    def _take(self, report: AgentReport) -> None:
        before = self._report
        if report.units is None and before is not None and report.sequence == before.sequence:
            return
        self._report = report
        self._deps.changed(self.node.name)


class LinkPool:
    """Keeps a link for every node that has an address and may hold a pod."""

    def __init__(self, deps: LinkDeps) -> None:
        self._deps = deps
        self.links: dict[str, AgentLink] = {}

    def follow(self, node: Node | None, name: str) -> None:
        """Opens, updates or closes the node's link by its record; None: the record is gone."""
        link = self.links.get(name)
        if node is None or node.status.phase not in LINKED_PHASES or not node.private_ip:
            if link is not None:
                link.close()
                del self.links[name]
        elif link is None or link.node.private_ip != node.private_ip:
            if link is not None:
                link.close()
            self.links[name] = AgentLink(self._deps, node)
            self.links[name].start()
        else:
            link.node = node

    def silent(self, seconds: float) -> list[AgentLink]:
        """Links that have heard nothing for so long."""
        return [link for link in self.links.values() if link.silent_s >= seconds]

    def close(self) -> None:
        for link in self.links.values():
            link.close()
        self.links.clear()
