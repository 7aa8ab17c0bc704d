"""Brings one recorded instance to life: namespaces, network card, agent.

Keeps the order that crash safety needs: the PID is on disk before init is let go. Decides nothing about states.
"""

import asyncio
import os
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from cloud.local import machine
from cloud.local.leftovers import control_group
from cloud.local.network import Card, Network, NetworkError
from cloud.local.records import InstanceRecord, Records, boot_id

BOOTS_AT_A_TIME = max(4, 2 * (os.cpu_count() or 1))
"""Instances between their start and their agent's first answer. An agent's start is a third of a second of CPU:
bounded, the first ones are ready early and the controllers on the same machine are not starved."""
AGENT_START_S = 5.0
"""How long an agent that does not answer keeps its turn from others."""
_POLL_S = 0.1
CARDS_AT_A_TIME = 64
_ANY_ADDRESS = "0.0.0.0"  # noqa: S104  (of the instance's own network namespace)


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """``command`` gets the agent's options appended when ``options`` is set (the real agent's way)."""

    command: tuple[str, ...]
    options: bool = True
    port: int = 6421


class Booter:
    """Boots instances, a bounded number at a time."""

    def __init__(self, records: Records, network: Network, agent: AgentSettings, pool: ThreadPoolExecutor) -> None:
        self._records, self._network, self._agent, self._pool = records, network, agent, pool
        self._turns = asyncio.Semaphore(BOOTS_AT_A_TIME)
        self._cards: list[tuple[Card, asyncio.Future[None]]] = []
        self._connecting: asyncio.Task[None] | None = None
        self._starting: set[asyncio.Task[None]] = set()

    async def boot(self, record: InstanceRecord, wanted: Callable[[], bool]) -> subprocess.Popen[bytes] | None:
        """Boots the instance; None when it is not wanted any more. The process is to be reaped by the caller.

        Raises:
            BootError, NetworkError, OSError: it failed; nothing of it runs.
        """
        await self._turns.acquire()
        process = None
        try:
            if wanted():
                process = await self._boot(record, wanted)
        finally:
            if process is None or record.hang:
                self._turns.release()
            else:
                task = asyncio.create_task(self._release_turn(record))
                self._starting.add(task)
                task.add_done_callback(self._starting.discard)
        return process

    def close(self) -> None:
        """Stops waiting for agents. Call when no boot is under way."""
        for task in self._starting:
            task.cancel()

    async def _boot(self, record: InstanceRecord, wanted: Callable[[], bool]) -> subprocess.Popen[bytes] | None:
        loop = asyncio.get_running_loop()
        booting = await loop.run_in_executor(self._pool, machine.spawn, self._spec(record))
        try:
            record.pid, record.start_time, record.boot_id = booting.pid, booting.start_time, boot_id()
            self._records.save_instance(record)
            await self._connect(record)
            if not wanted():
                await loop.run_in_executor(self._pool, booting.abandon)
                return None
        except BaseException:
            booting.abandon()
            raise
        await loop.run_in_executor(self._pool, booting.release)
        return booting.process

    async def _release_turn(self, record: InstanceRecord) -> None:
        """Gives the turn to the next boot once the agent listens, has been slow for long, or is not wanted."""
        try:
            async with asyncio.timeout(AGENT_START_S):
                # Nothing tells when a port opens, hence the polling.
                while record.alive and not await _listens(record.private_ip, self._agent.port):  # noqa: ASYNC110
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            pass
        finally:
            self._turns.release()

    def _spec(self, record: InstanceRecord) -> machine.BootSpec:
        directory = self._records.instance_dir(record.id)
        state = directory / "state"
        state.mkdir(mode=0o700, exist_ok=True)
        command = ["sleep", "infinity"] if record.hang else list(self._agent.command)
        if self._agent.options and not record.hang:
            command += ["--user-data", str(directory / "user-data"), "--state-dir", str(state)]
            command += ["--listen", _ANY_ADDRESS, "--port", str(self._agent.port)]
            command += ["--image-cache", str(self._records.root / "images")]
            command += ["--localhost-registry", self._network.gateway]
            command += ["--cgroup-parent", control_group(self._network.bridge, record.id)]
        return machine.BootSpec(
            instance_id=record.id,
            directory=directory,
            address=self._network.with_prefix(record.private_ip),
            gateway=self._network.gateway,
            hostname=record.private_dns.partition(".")[0],
            command=command,
            environment={"MILPA_LOCAL_CLOUD": str(self._records.root)},
        )

    async def _connect(self, record: InstanceRecord) -> None:
        """Makes the instance's card; what waits while a command runs shares the next one."""
        made: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._cards.append((Card(record.id, record.pid, record.private_ip), made))
        if self._connecting is None:
            self._connecting = asyncio.create_task(self._connect_waiting())
        await made

    async def _connect_waiting(self) -> None:
        while self._cards:
            batch, self._cards = self._cards[:CARDS_AT_A_TIME], self._cards[CARDS_AT_A_TIME:]
            if await self._connect_batch(batch) is not None:
                for one in batch:  # one dead instance must not fail its neighbours
                    error = await self._connect_batch([one])
                    if error is not None and not one[1].done():
                        one[1].set_exception(error)
        self._connecting = None

    async def _connect_batch(self, batch: list[tuple[Card, asyncio.Future[None]]]) -> NetworkError | None:
        cards = [card for card, _ in batch]
        try:
            await asyncio.get_running_loop().run_in_executor(self._pool, self._network.connect, cards)
        except NetworkError as error:
            return error
        for _, made in batch:
            if not made.done():  # its boot may have been given up meanwhile
                made.set_result(None)
        return None


async def _listens(address: str, port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(address, port)
    except OSError:
        return False
    writer.close()
    return True
