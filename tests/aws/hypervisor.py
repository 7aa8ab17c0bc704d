"""Plays the machines behind the API: boots a real one for each instance that moto runs.

It is an instance of the local cloud: namespaces of its own with the private address that moto gave it, and in it the
real node agent, which fetches the instance's own user data from the metadata service, as the node image does.
"""

import asyncio
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from cloud.local import machine
from cloud.local.boot import BOOTS_AT_A_TIME, AgentSettings, Booter
from cloud.local.leftovers import control_group, remove_control_groups
from cloud.local.network import Network
from cloud.local.records import InstanceRecord
from milpa_ray.ports import AGENT_PORT, InstanceState
from nodeagent.interruption import DISABLED_VARIABLE
from tests.aws.account import Account
from tests.aws.metadata import InstanceMetadata
from tests.aws.watch import Watch

KILL_TIMEOUT_S = 10.0
BOOT_AS_THE_IMAGE_DOES = f"""
unset {DISABLED_VARIABLE}
"$0" -m nodeagent.fetch_user_data --wait-s 20 fetched-user-data
exec "$0" -m nodeagent "$@" --user-data fetched-user-data
"""
"""The two commands of the node image's unit. The options that the local cloud's booter appends come before."""


class Hypervisor(Watch):
    """See ``Watch``."""

    def __init__(self, url: str, account: Account, directory: Path, network: Network) -> None:
        self.metadata = InstanceMetadata()
        super().__init__(url, account, directory, replace(network, metadata_port=self.metadata.port))
        self._pool = ThreadPoolExecutor(BOOTS_AT_A_TIME + 4, "instance")
        self._timers: list[threading.Timer] = []
        self._booter: Booter

    def directory_of(self, instance_id: str) -> Path:
        """Files of an instance; ``console.log`` has what its init and agent printed."""
        return self.records.instance_dir(instance_id)

    def interrupt(self, instance_id: str, notice_s: float = 120.0) -> None:
        """Takes a spot instance back: the notice now, the termination in ``notice_s`` seconds."""
        self.metadata.give_notice(self.record(instance_id).private_ip, notice_s)
        timer = threading.Timer(notice_s, self._take_back, [instance_id])
        self._timers.append(timer)
        timer.start()

    def _take_back(self, instance_id: str) -> None:
        if any(record.id == instance_id for record in self.living()):
            self.terminate(instance_id)

    async def open(self) -> None:
        self.metadata.start()
        settings = AgentSettings(("/bin/sh", "-ec", BOOT_AS_THE_IMAGE_DOES, sys.executable), port=AGENT_PORT)
        self._booter = Booter(self.records, self.network, settings, self._pool)

    async def close(self) -> None:
        for timer in self._timers:
            timer.cancel()
        self._booter.close()
        self._pool.shutdown()
        self.metadata.stop()

    async def live(self, record: InstanceRecord, gone: asyncio.Event) -> None:
        self.metadata.add(record, await asyncio.to_thread(self.user_data, record.id))
        self.add_record(record)
        process: subprocess.Popen[bytes] | None = None
        try:
            process = await self._booter.boot(record, lambda: not gone.is_set())
            await gone.wait()
        finally:
            record.move_to(InstanceState.SHUTTING_DOWN, time.time())
            await asyncio.get_running_loop().run_in_executor(self._pool, self._clear, record)
            if process is not None:
                await asyncio.to_thread(process.wait, KILL_TIMEOUT_S)
            self.metadata.remove(record.private_ip)

    def _clear(self, record: InstanceRecord) -> None:
        machine.kill_and_wait(record.pid, record.start_time, KILL_TIMEOUT_S)
        remove_control_groups(control_group(self.network.bridge, record.id))
        self.network.disconnect(record.id)
        self.records.strip_instance(record.id)
        record.move_to(InstanceState.TERMINATED, time.time())
        self.records.save_instance(record)
