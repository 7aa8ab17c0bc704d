"""Carries out what the planner asks of agents: dispatch, stop, clean. Chooses nothing.

Every effect is idempotent and acts on a record in the store; its outcome goes back into the link, where the next pass
sees it. At most one effect of a verb per node is under way, and a bounded number in all.
"""

import asyncio
import logging
import random
from collections import defaultdict
from collections.abc import Callable
from functools import partial

from milpa_ray.api.pod import Pod
from milpa_ray.controller.links import AgentLink
from milpa_ray.controller.pacing import Backoff
from milpa_ray.controller.resolving import Resolver, UnresolvedError
from milpa_ray.controller.saving import LogSaver
from milpa_ray.errors import AgentRefused, MilpaError, StaleToken
from milpa_ray.limits import Limits
from milpa_ray.planner.snapshot import Effect
from milpa_ray.ports import Agent, Token

log = logging.getLogger(__name__)

VERBS = ("dispatch", "stop", "clean")


class EffectRunner:
    """Runs effects as tasks."""

    def __init__(
        self,
        limits: Limits,
        rng: random.Random,
        token: Callable[[], Token],
        resolver: Resolver,
        saver: LogSaver,
    ) -> None:
        self._limits = limits
        self._rng = rng
        self._token = token
        self._resolver = resolver
        self._saver = saver
        # One bound per verb, so that stops that wait out their grace do not hold up dispatches.
        self._slots = {verb: asyncio.Semaphore(limits.effects_in_flight) for verb in VERBS}
        self._tasks: dict[str, set[asyncio.Task[None]]] = defaultdict(set)

    def start(self, effect: Effect, link: AgentLink, pod: Pod | None, done: Callable[[str], None]) -> None:
        """Starts the effect unless its verb is busy on that link; ``done`` is told the node's name at the end."""
        if effect.verb in link.busy:
            return
        link.busy.add(effect.verb)
        task = asyncio.create_task(self._run(effect, link, pod, done), name=f"{effect.verb}-{effect.node}")
        self._tasks[effect.node].add(task)
        task.add_done_callback(partial(self._ended, effect.node))

    def _ended(self, node_name: str, task: asyncio.Task[None]) -> None:
        self._tasks[node_name].discard(task)
        if not self._tasks[node_name]:
            del self._tasks[node_name]

    def give_up(self, node_name: str) -> None:
        """The node is no longer ours: its effects make no further call."""
        for task in self._tasks.get(node_name, ()):
            task.cancel()

    def close(self) -> None:
        for node_name in self._tasks:
            self.give_up(node_name)

    async def _run(self, effect: Effect, link: AgentLink, pod: Pod | None, done: Callable[[str], None]) -> None:
        try:
            async with self._slots[effect.verb]:
                agent = link.agent
                if agent is None:
                    return
                await self._call(effect, link, agent, pod)
            link.backoffs.pop(effect.verb, None)
        except StaleToken as error:
            link.report_deposed(error)
            await self._backoff(link, effect.verb).sleep()
        except MilpaError as error:
            log.info("%s on node %s: %s; trying again", effect.verb, effect.node, error)
            await self._backoff(link, effect.verb).sleep()
        finally:
            link.busy.discard(effect.verb)
            done(effect.node)

    def _backoff(self, link: AgentLink, verb: str) -> Backoff:
        if verb not in link.backoffs:
            link.backoffs[verb] = Backoff(self._rng, self._limits.retry_first_s, self._limits.retry_max_s)
        return link.backoffs[verb]

    async def _call(self, effect: Effect, link: AgentLink, agent: Agent, pod: Pod | None) -> None:
        match effect.verb:
            case "dispatch":
                if pod is not None:
                    await self._dispatch(link, agent, pod)
            case "stop":
                await agent.stop(self._token(), effect.pod_uid, effect.grace_s)
                link.stopped(effect.pod_uid)
            case "clean":
                await self._saver.save(link, agent)
                link.cleaned = True
            case _:
                raise ValueError(f"unknown effect {effect.verb!r}")

    async def _dispatch(self, link: AgentLink, agent: Agent, pod: Pod) -> None:
        try:
            desired = await self._resolver.resolve(pod)
            await agent.dispatch(self._token(), desired)
        except (UnresolvedError, AgentRefused) as error:
            link.refused = str(error)
        else:
            link.dispatched(pod.uid, pod.metadata.generation)
