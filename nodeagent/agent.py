"""The agent's decisions: whose calls it obeys, which pod it holds, what it reports. No gRPC here.

Invariants: the highest token ever seen is on disk before anything is done for its owner; a pod is on disk before its
dispatch is acknowledged; a pod that was asked to stop is never started again, across restarts of the agent too.
"""

import asyncio
import logging
import re
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import NoReturn

from milpa_ray import __version__
from milpa_ray.errors import AgentRefused, StaleToken
from milpa_ray.ports import AgentReport, DesiredPod, Hello, Token
from nodeagent.oci_spec import NodeFacts
from nodeagent.pod import PodRunner
from nodeagent.records import Memory
from nodeagent.unit import UnitTools
from nodeagent.unit_logs import rotate

log = logging.getLogger("nodeagent")

ROTATE_INTERVAL_S = 5.0
_UNIT_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,62}[A-Za-z0-9])?")


class NodeAgent:
    """One node's agent."""

    def __init__(self, memory: Memory, tools: UnitTools, facts: NodeFacts) -> None:
        self.sequence = 0
        self._memory = memory
        self._tools = tools
        self._held = memory.load_dispatch()
        self._watchers: set[asyncio.Event] = set()
        self.pod = PodRunner(tools, facts, self._changed)
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping: asyncio.Task[None] | None = None
        self._interruption_at: datetime | None = None
        self.closing = False

    def resume(self) -> None:
        """Goes on where an earlier agent of this state directory was: adopts its units or finishes its stop."""
        self._spawn(self._rotate_logs())
        if self._held is None:
            return
        uid = self._held.pod.uid
        log.info("holding pod %s, uid %s", self._held.pod.name, uid)
        if self._memory.agent.stop_uid == uid:
            self._stopping = self._spawn(self._finish_stop(self._held, 0.0))
        else:
            self.pod.apply(self._held)

    def interrupted(self, at: datetime) -> None:
        """The cloud takes the instance back then: told to whoever watches, and nothing else. Whether and when the pod
        is stopped is its owner's to say."""
        self._interruption_at = at
        self._changed()

    def end_watches(self) -> None:
        """Lets the watch streams end, so that a server can stop without breaking them off."""
        self.closing = True
        for event in self._watchers:
            event.set()

    async def close(self) -> None:
        """Ends without touching the units."""
        await self.pod.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    # ------------------------------------------------------------ calls

    def accept(self, token: Token) -> None:
        """Obeys ``token``'s owner from now on, and no lower one.

        Raises:
            StaleToken: a higher one has been here.
        """
        record = self._memory.agent
        if token < record.token:
            raise StaleToken(record.term, record.revision)
        if token > record.token:
            record.term, record.revision = token.term, token.revision
            self._memory.save_agent()

    def hello(self) -> Hello:
        record = self._memory.agent
        pod = self._held.pod if self._held else None
        return Hello(
            record.node_name,
            __version__,
            pod.uid if pod else "",
            pod.metadata.generation if pod else 0,
            record.stopped,
            record.enrolled,
        )

    def dispatch(self, desired: DesiredPod) -> None:
        """Takes the pod, or a newer generation of it; an older or known one changes nothing.

        Raises:
            AgentRefused: the pod is malformed, was stopped here, or another one is held.
        """
        pod = desired.pod
        self._check(desired)
        if self._held is not None and self._held.pod.uid != pod.uid:
            _refuse(f"this node holds pod {self._held.pod.name} (uid {self._held.pod.uid}) and takes no other")
        record = self._memory.agent
        if pod.uid == record.stop_uid or pod.uid in record.tombstones:
            _refuse(f"pod {pod.name} (uid {pod.uid}) was stopped on this node and is not started again")
        if self._held is not None and self._held.pod.metadata.generation >= pod.metadata.generation:
            return
        self._memory.save_dispatch(desired)
        self._held = desired
        log.info("pod %s, uid %s, generation %d dispatched", pod.name, pod.uid, pod.metadata.generation)
        self.pod.apply(desired)

    async def stop(self, pod_uid: str, grace_s: float) -> None:
        """Stops the pod for good; returns when none of its units runs. A uid that is not held is remembered."""
        record = self._memory.agent
        if self._held is None or self._held.pod.uid != pod_uid:
            if pod_uid not in record.tombstones:
                record.tombstones.append(pod_uid)
                self._memory.save_agent()
            return
        if record.stop_uid != pod_uid:
            record.stop_uid, record.stop_grace_s = pod_uid, grace_s
            self._memory.save_agent()
            log.info("stopping pod %s, grace %g s", self._held.pod.name, grace_s)
        if self._stopping is None or self._stopping.done():
            self._stopping = self._spawn(self._finish_stop(self._held, grace_s))
        # The stop goes on when the caller has given up waiting.
        await asyncio.shield(self._stopping)

    def report(self, known_sequence: int) -> AgentReport:
        """A heartbeat when the caller knows the newest sequence, else the whole status."""
        pod = self._held.pod if self._held else None
        units, init_units = ((), ()) if pod is None else self.pod.statuses()
        known = known_sequence == self.sequence
        return AgentReport(
            self.sequence,
            pod.uid if pod else "",
            pod.metadata.generation if pod else 0,
            None if known else tuple(units),
            () if known else tuple(init_units),
            self._memory.agent.stopped,
            self._interruption_at,
        )

    @contextmanager
    def changes(self) -> Iterator[asyncio.Event]:
        """An event that is set at each change; the caller clears it."""
        event = asyncio.Event()
        self._watchers.add(event)
        try:
            yield event
        finally:
            self._watchers.discard(event)

    # ------------------------------------------------------------ inside

    async def _finish_stop(self, desired: DesiredPod, grace_s: float) -> None:
        await self.pod.stop(desired, grace_s)
        if not self._memory.agent.stopped:
            self._memory.agent.stopped = True
            self._memory.save_agent()
            log.info("pod %s is stopped", desired.pod.name)
        self._changed()

    def _changed(self) -> None:
        self.sequence += 1
        for event in self._watchers:
            event.set()

    def _check(self, desired: DesiredPod) -> None:
        """What would harm this node; everything else the API server has checked."""
        spec = desired.pod.spec
        if not desired.pod.uid:
            _refuse("metadata.uid is empty")
        names = [unit.name for unit in (*spec.units, *spec.init_units)]
        if len(set(names)) != len(names):
            _refuse("spec.units: two units have the same name")
        for name in (*names, *(volume.name for volume in spec.volumes)):
            if not _UNIT_NAME.fullmatch(name):
                _refuse(f"{name!r} is no name: letters, digits, '-', '_' and '.', at most 64, none at the ends")

    async def _rotate_logs(self) -> None:
        while True:
            await asyncio.sleep(ROTATE_INTERVAL_S)
            for runner in self.pod.runners():
                rotate(runner.log_path, runner.control_pipe)

    def _spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a background task broke", exc_info=task.exception())


def _refuse(reason: str) -> NoReturn:
    raise AgentRefused(reason)
