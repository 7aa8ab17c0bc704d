"""What an agent remembers across its own death: whom it obeys, what it runs, and how far each unit has come.

Only the shape and the files; the decisions are in ``service``, ``pod`` and ``unit``.
"""

import json
import uuid
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from milpa_ray.api.pod import Pod
from milpa_ray.ports import DesiredPod, RegistryLogin, Token
from nodeagent.state_dir import StateDir, read_json, write_atomic

MAX_TOMBSTONES = 4096
"""Uids of pods that were stopped before they ever came here. An agent gets one pod in its life; more than a few of
these are a mistake somewhere, and the oldest are forgotten."""


@dataclass(slots=True)
class AgentRecord:
    """``stop_uid`` names the pod that was asked to stop; ``stopped`` says that none of its units runs any more.
    ``cgroup`` is the cgroup below which this agent puts its units."""

    agent_id: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    cgroup: str = ""
    term: int = 0
    revision: int = 0
    node_name: str = ""
    enrolled: bool = False
    stop_uid: str = ""
    stop_grace_s: float = 0.0
    stopped: bool = False
    tombstones: list[str] = field(default_factory=list)

    @property
    def token(self) -> Token:
        return Token(self.term, self.revision)


class Memory:
    """Loads and saves the records of one state directory. Saving returns once the bytes are on disk."""

    def __init__(self, dirs: StateDir) -> None:
        self._dirs = dirs
        found = read_json(dirs.agent_record)
        self.agent = AgentRecord(**found) if found else AgentRecord()

    def place_units(self, cgroup_parent: str) -> str:
        """The cgroup for units, fixed at the first start so that a clean-up finds it by the record alone."""
        if not self.agent.cgroup:
            self.agent.cgroup = f"/{cgroup_parent.strip('/')}/{self.agent.agent_id}"
            self.save_agent()
        return self.agent.cgroup

    def save_agent(self) -> None:
        del self.agent.tombstones[:-MAX_TOMBSTONES]
        write_atomic(self._dirs.agent_record, json.dumps(asdict(self.agent)).encode())

    def load_dispatch(self) -> DesiredPod | None:
        found = read_json(self._dirs.dispatch)
        if found is None:
            return None
        return DesiredPod(
            Pod.from_json(json.dumps(found["pod"])),
            tuple(RegistryLogin(**login) for login in found["logins"]),
            tuple(found["dns_servers"]),
            tuple(found["dns_search"]),
            tuple(found.get("insecure_registries", ())),
        )

    def save_dispatch(self, desired: DesiredPod) -> None:
        body: dict[str, Any] = {
            "pod": json.loads(desired.pod.to_json()),
            "logins": [asdict(login) for login in desired.logins],
            "dns_servers": desired.dns_servers,
            "dns_search": desired.dns_search,
            "insecure_registries": desired.insecure_registries,
        }
        write_atomic(self._dirs.dispatch, json.dumps(body).encode())


@dataclass(slots=True)
class UnitRecord:
    """How far a unit has come. ``key`` tells the version of its description that this is about; ``attempt`` counts its
    starts and names its container; ``stage`` is "new", "starting", "running" or "ended"; ``done`` says that it is
    never started again. Times are RFC 3339 text. ``last`` describes the end before this start."""

    key: str = ""
    attempt: int = 0
    stage: str = "new"
    digest: str = ""
    restarts: int = 0
    backoff_step: int = 0
    done: bool = False
    started_at: str = ""
    finished_at: str = ""
    exit_code: int | None = None
    reason: str = ""
    last: dict[str, Any] | None = None


def load_unit(path: Path) -> UnitRecord | None:
    found = read_json(path)
    return UnitRecord(**found) if found else None


def save_unit(path: Path, record: UnitRecord) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(asdict(record)).encode())
