"""The tails of logs are saved, also of a unit that ran and printed nothing; not of one that never ran."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

from milpa_ray.api.meta import ObjectMeta
from milpa_ray.api.node import Node, NodeStatus
from milpa_ray.api.pod import UnitRunning, UnitState, UnitStatus, UnitTerminated, UnitWaiting
from milpa_ray.api.records import LogFile
from milpa_ray.clock import SystemClock
from milpa_ray.controller.saving import LogSaver
from milpa_ray.errors import AgentRefused
from milpa_ray.keys import Keys, prefix_end
from milpa_ray.limits import Limits
from milpa_ray.planner.snapshot import AgentFacts
from milpa_ray.store.memory import MemoryStore

KEYS = Keys("c")
NODE = Node(metadata=ObjectMeta(name="n1", uid="n"), status=NodeStatus(bound_pod_name="web", pod_uid="u"))


@dataclass
class Link:
    """What the saver asks of a link."""

    told: AgentFacts
    node: Node = NODE

    def facts(self) -> AgentFacts:
        return self.told


class Agent:
    """Has the logs given; refuses others."""

    def __init__(self, **logs: bytes) -> None:
        self._logs = logs

    async def logs(self, unit: str, *, limit_bytes: int) -> AsyncIterator[bytes]:
        if (unit or "agent") not in self._logs:
            raise AgentRefused("no such log")
        yield self._logs[unit or "agent"][-limit_bytes:]


async def saved(agent: Agent, *units: UnitStatus, inits: tuple[UnitStatus, ...] = ()) -> dict[str, str]:
    """Content of the saved files by name."""
    store = MemoryStore()
    saver = LogSaver(store, KEYS, SystemClock(), Limits(log_tail_bytes=4))
    running = asyncio.create_task(saver.run())
    link = Link(AgentFacts(ready=True, units=units, init_units=inits))
    async with asyncio.timeout(5):
        await saver.save(link, agent)  # type: ignore[arg-type]
    running.cancel()
    prefix = KEYS.prefix("logfile")
    page = await store.scan(prefix, prefix_end(prefix), limit=100)
    found = [LogFile.from_json(entry.value) for entry in page.entries]
    assert all(file.parent_object.uid in ("u", "n") for file in found)
    return {file.name: file.content for file in found}


def ended(name: str, code: int | None) -> UnitStatus:
    return UnitStatus(name=name, state=UnitState(terminated=UnitTerminated(exit_code=code)))


async def test_tails() -> None:
    agent = Agent(agent=b"of the agent", main=b"1\n2\n3\n", init=b"i\n")
    found = await saved(agent, ended("main", 0), inits=(ended("init", 0),))
    assert found == {"n1": "gent", "web.main": "2\n3\n", "web.init": "i\n"}


async def test_what_ran_and_printed_nothing_has_an_empty_log() -> None:
    crashed = UnitState(terminated=UnitTerminated(exit_code=1))
    units = (
        ended("done", 0),
        UnitStatus(name="runs", state=UnitState(running=UnitRunning())),
        UnitStatus(name="again", state=UnitState(waiting=UnitWaiting(reason="back-off")), last_state=crashed),
    )
    found = await saved(Agent(agent=b"", done=b"", runs=b"", again=b""), *units)
    assert found == {"web.done": "", "web.runs": "", "web.again": ""}


async def test_what_never_ran_has_none() -> None:
    never = UnitStatus(name="never", state=UnitState(waiting=UnitWaiting(reason="ErrImagePull", start_failure=True)))
    assert await saved(Agent(agent=b"", never=b"", stopped=b""), never, ended("stopped", None)) == {}
