"""A real API server over a store in memory, in a thread of its own, for ``milpactl`` to talk to.

There are no controllers: what they would do, tests do by writing the stored objects.
"""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from milpa_ray.controller.capacity import capacity_put
from milpa_ray.errors import AgentUnreachable, CapacityScope
from milpa_ray.keys import SLOTTED, Keys, prefix_end, slot_of
from milpa_ray.pki import CertificateAuthority
from milpa_ray.ports import API_SERVER_IDENTITY, CLIENT_IDENTITY, Agent, AgentAddress, LaunchCall
from milpa_ray.server.api import ApiConfig, ApiServer, ServerTls
from milpa_ray.server.offers import CloudDefaults
from milpa_ray.store.memory import MemoryStore
from milpa_ray.store.port import Delete, Op, Put, Txn
from tests.cli.running import Ran, milpactl_here

T = TypeVar("T")
KEYS = Keys("cli")


class LogAgent:
    """The part of an agent that logs need. ``log`` grows while a follower reads; ``ended`` ends the unit."""

    def __init__(self, log: bytes = b"", ended: bool = True) -> None:
        self.log = log
        self.ended = ended
        self.asked: list[tuple[str, int, int, bool]] = []

    async def logs(
        self, unit: str, *, lines: int = 0, limit_bytes: int = 0, follow: bool = False
    ) -> AsyncIterator[bytes]:
        self.asked.append((unit, lines, limit_bytes, follow))
        told = len(self.log)
        tail = b"".join(self.log.splitlines(keepends=True)[-lines:])
        yield tail[-limit_bytes:] if limit_bytes else tail
        while follow and not (self.ended and told == len(self.log)):
            if told < len(self.log):
                fresh, told = self.log[told:], len(self.log)
                yield fresh
            await asyncio.sleep(0.01)

    async def close(self) -> None:
        return


class LogAgents:
    """Dials the agents that the test has put at addresses."""

    def __init__(self) -> None:
        self.by_host: dict[str, LogAgent] = {}

    def dial(self, address: AgentAddress) -> Agent:
        if address.host not in self.by_host:
            raise AgentUnreachable(f"no agent at {address.host}")
        return self.by_host[address.host]  # type: ignore[return-value]


class Cluster:
    """One server. ``flags`` lead ``milpactl`` to it. With ``cert_dir`` it speaks TLS and leaves the client's
    certificates there."""

    def __init__(self, cert_dir: Path | None = None) -> None:
        self.agents = LogAgents()
        self.uuid = "3f0c5d9e"
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="cluster", daemon=True)
        self._thread.start()
        self._call(self._start(_certificates(cert_dir) if cert_dir else None))
        where = f"127.0.0.1:{self._server.port}"
        self.flags = ("--endpoints", where, *(("--cert-dir", str(cert_dir)) if cert_dir else ("--disable-tls",)))

    async def _start(self, tls: ServerTls | None) -> None:
        self._store = MemoryStore()
        await self._store.commit(Txn(ops=(Put(KEYS.uuid, self.uuid.encode()),)))
        told = CloudDefaults("us-west-2", "t3.small", "8Gi")
        self._server = ApiServer(self._store, KEYS, self.agents, ApiConfig(tls, "127.0.0.1", 0, cloud=told))
        await self._server.start()

    def close(self) -> None:
        self._call(self._server.stop())
        self._call(self._store.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10)
        self._loop.close()

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=20)

    def milpactl(self, *args: str, stdin: str = "") -> Ran:
        """Runs it against this server, in this process."""
        return milpactl_here(*args, *self.flags, stdin=stdin)

    # ------------------------------------------------------------ what controllers would do

    def put(self, *objects: dict[str, Any]) -> None:
        """Stores the objects as they are."""
        ops: list[Op] = [Put(_key(o["kind"], o["metadata"]["name"]), json.dumps(o).encode()) for o in objects]
        for at in range(0, len(ops), 128):
            self._call(self._store.commit(Txn(ops=tuple(ops[at : at + 128]))))

    def fill(self, call: LaunchCall, scope: CapacityScope) -> None:
        """Remembers that the cloud had no room for ``call``."""
        lease = self._call(self._store.lease_grant(600))
        self._call(self._store.commit(Txn(ops=(capacity_put(KEYS, call, scope, lease),))))

    def remove(self, kind: str, name: str) -> None:
        self._call(self._store.commit(Txn(ops=(Delete(_key(kind, name)),))))

    def clear(self) -> None:
        """Removes all objects."""
        self.agents.by_host.clear()
        everything = Delete(KEYS.root, KEYS.uuid), Delete(KEYS.uuid + "\0", prefix_end(KEYS.root))
        self._call(self._store.commit(Txn(ops=everything)))

    def stored(self, kind: str, name: str) -> dict[str, Any]:
        """The object in the store; empty metadata when there is none."""
        entry = self._call(self._store.get(_key(kind, name)))
        found: dict[str, Any] = json.loads(entry.value) if entry is not None else {"metadata": {}}
        return found

    def names(self, kind: str) -> list[str]:
        """Names of the stored objects of a kind."""
        page = self._call(self._store.scan(KEYS.root, prefix_end(KEYS.root), limit=100_000))
        found = (KEYS.parse(entry.key) for entry in page.entries)
        return sorted(key.name for key in found if key is not None and key.kind == kind.lower())


def _key(kind: str, name: str) -> str:
    return KEYS.object(slot_of(name), kind, name) if kind in SLOTTED else KEYS.other(kind, name)


def _certificates(folder: Path) -> ServerTls:
    """Writes the client's certificates, returns the server's."""
    authority = CertificateAuthority.create("cli")
    client = authority.issue([CLIENT_IDENTITY], server=False, client=True)
    server = authority.issue([API_SERVER_IDENTITY], server=True, client=False)
    for name, content in (("ca.crt", authority.pair.cert), ("client.crt", client.cert), ("client.key", client.key)):
        (folder / name).write_bytes(content)
    return ServerTls(authority.pair.cert, server.cert, server.key)
