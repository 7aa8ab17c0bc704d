"""Agents for the API server's tests: they have logs and can be out of reach. The real one is tested in its own room."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from milpa_ray.errors import AgentUnreachable
from milpa_ray.ports import AgentAddress


@dataclass
class ScriptedAgent:
    """``logs_of`` has the chunks of each unit; ``breaks_after`` makes a stream end in the middle."""

    address: AgentAddress
    logs_of: dict[str, list[bytes]]
    breaks_after: int | None = None
    asked: list[tuple[str, int, int, bool]] = field(default_factory=list)
    closed: int = 0

    async def logs(
        self, unit: str, *, lines: int = 0, limit_bytes: int = 0, follow: bool = False
    ) -> AsyncIterator[bytes]:
        self.asked.append((unit, lines, limit_bytes, follow))
        for number, chunk in enumerate(self.logs_of.get(unit, [])):
            if number == self.breaks_after:
                raise AgentUnreachable("connection reset")
            yield chunk

    async def close(self) -> None:
        self.closed += 1


class ScriptedDialer:
    """Agents by identity; whoever is not among them does not answer."""

    def __init__(self) -> None:
        self.agents: dict[str, ScriptedAgent] = {}

    def add(self, identity: str, host: str, **logs_of: list[bytes]) -> ScriptedAgent:
        agent = ScriptedAgent(AgentAddress(host, identity), {k.replace("_", "-"): v for k, v in logs_of.items()})
        self.agents[identity] = agent
        return agent

    def dial(self, address: AgentAddress) -> "ScriptedAgent":
        agent = self.agents.get(address.identity)
        if agent is None or agent.address.host != address.host:
            return _Silent(address, {})
        return agent


class _Silent(ScriptedAgent):
    async def logs(
        self, unit: str, *, lines: int = 0, limit_bytes: int = 0, follow: bool = False
    ) -> AsyncIterator[bytes]:
        raise AgentUnreachable("connection refused")
        yield b""
