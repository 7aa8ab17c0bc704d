"""Controllers killed at size: ``python -m benchmarks.restart [--pods 3000] [--shards 2] [--json FILE]``.

With all pods running on hollow agents it kills (SIGKILL) a shard, the coordinator, the API server, and all of them, and
prints the seconds until everything is under control again: all shards have read their range and hold a link to every
agent, a coordinator leads, the API answers, and a new pod runs. The agents' own counts tell whether any pod was started
or dispatched twice. At the end it times ``milpactl get pods`` with ``--list`` pods in the store.
"""

import argparse
import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.cluster import BenchmarkError, Cluster, hollow_cluster, say
from benchmarks.load import LABELS, Tracker, pods
from milpa_ray.api import Pod
from milpa_ray.api.pod import PodPhase
from milpa_ray.client import AsyncClient
from milpa_ray.clock import SystemClock
from milpa_ray.errors import MilpaError
from milpa_ray.keys import Keys
from milpa_ray.store.connection import EtcdConfig
from milpa_ray.store.etcd import EtcdStore
from milpa_ray.store.port import Put, Txn
from shards.launch import dumps, statuses

TIMEOUT_S = 300.0
POLL_S = 0.1
LIST_RUNS = 5
PUTS_PER_TXN = 50


@dataclass
class Kill:
    """One kill. Seconds are from the kill: until an API server answered, until all links were ready again, and until a
    pod that was submitted right after it was Running."""

    what: str
    api_s: float = 0.0
    control_s: float = 0.0
    new_pod_s: float = 0.0
    dispatches: int = 0
    """Calls of Dispatch that agents got between the kill and the end, without the new pod's."""
    repeated_starts: int = 0


@dataclass
class Measured:
    """The result file."""

    pods: int
    shards: int
    kills: list[Kill] = field(default_factory=list)
    listed: int = 0
    list_s: float = 0.0
    """Median seconds of ``milpactl get pods`` with ``listed`` pods."""


async def measure(cluster: Cluster, options: argparse.Namespace) -> Measured:
    """Needs a connected driver."""
    found = Measured(options.pods, options.shards)
    async with cluster.aio_client(timeout_s=120.0, retry_s=TIMEOUT_S) as client:
        async with Tracker().following(client) as tracker:
            await client.submit(pods(options.pods))
            await tracker.until_running(options.pods, TIMEOUT_S)
        say(f"{options.pods} pods run")
        shard = ["shard-0"]
        everything = [status.name for status in statuses()]
        api = [name for name in everything if name.startswith("api-")]
        for number, (what, names) in enumerate(
            [("a shard", shard), ("the coordinator", ["coordinator"]), ("the API server", api), ("all", everything)]
        ):
            await _until_under_control(options.pods + number, options.shards)
            found.kills.append(await _kill(cluster, client, what, names, options.pods + number))
            say(f"{what}: {found.kills[-1]}")
        if options.list:
            found.listed, found.list_s = await _time_list(cluster, client, options.list)
    return found


async def _kill(cluster: Cluster, client: AsyncClient, what: str, names: list[str], held: int) -> Kill:
    """Kills the actors ``names`` while ``held`` pods run."""
    before = await cluster.hollow_stats()
    pids = {status.name: status.pid for status in statuses()}
    kill = Kill(what)
    began = time.monotonic()
    for name in names:
        os.kill(pids[name], signal.SIGKILL)

    async def api() -> None:
        await client.version()
        kill.api_s = round(time.monotonic() - began, 2)

    async def control() -> None:
        await _until_under_control(held, cluster.shards, {name: pids[name] for name in names})
        kill.control_s = round(time.monotonic() - began, 2)

    async def new_pod() -> None:
        name = f"after-{what.replace(' ', '-').lower()}"
        await client.submit(AsyncClient.pod(name, "registry.local/app:1"))
        await client.wait(name, timeout_s=TIMEOUT_S)
        kill.new_pod_s = round(time.monotonic() - began, 2)

    await asyncio.gather(api(), control(), new_pod())
    after = await cluster.hollow_stats()
    kill.dispatches = after["calls"]["Dispatch"] - before["calls"]["Dispatch"] - 1
    kill.repeated_starts = len(after["repeated"])
    return kill


async def _until_under_control(held: int, shards: int, killed: dict[str, int] | None = None) -> None:
    """Waits until all controllers answer, those in ``killed`` under another pid, and lead and hold what they should."""
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        states = await asyncio.to_thread(dumps)
        if _under_control(states, held, shards, killed or {}):
            return
        if time.monotonic() > deadline:
            raise BenchmarkError(f"not under control after {TIMEOUT_S:.0f} s: {json.dumps(states, default=str)[:2000]}")
        await asyncio.sleep(POLL_S)


def _under_control(states: dict[str, Any], held: int, shards: int, killed: dict[str, int]) -> bool:
    if any(not state.get("ready") or state["pid"] == killed.get(name) for name, state in states.items()):
        return False
    if not any(state["state"].get("leads") for state in states.values()):
        return False
    ranges = [state["state"]["range"] for name, state in states.items() if name.startswith("shard-")]
    if len(ranges) < shards or not all(served and served["synced"] for served in ranges):
        return False
    covered = sum(served["slots"][1] - served["slots"][0] for served in ranges)
    return bool(covered == 1024 and sum(served["linksReady"] for served in ranges) >= held)


# ---------------------------------------------------------------- lists


async def _time_list(cluster: Cluster, client: AsyncClient, count: int) -> tuple[int, float]:
    """Fills the store up to ``count`` pods with ones that have succeeded, and times the command."""
    present = len([pod async for pod in client.list_raw("Pod")])
    endpoint = str(cluster.installation.daemons()["etcd"]).rpartition(" ")[2]
    store = EtcdStore(EtcdConfig((endpoint,)))
    keys = Keys(cluster.installation.settings.cluster_name)
    try:
        for at in range(present, count, PUTS_PER_TXN):
            done = [_succeeded(number) for number in range(at, min(count, at + PUTS_PER_TXN))]
            await store.commit(Txn(ops=tuple(Put(keys.pod(pod.name), pod.to_json()) for pod in done)))
    finally:
        await store.close()
    say(f"{count} pods are stored")
    environment = {**os.environ, "MILPA_HOME": str(cluster.home.root), "MILPA_ENDPOINTS": cluster.endpoint}
    program = Path(sys.executable).with_name("milpactl")
    took, lines = [], 0
    for _ in range(LIST_RUNS):
        began = time.perf_counter()
        process = await asyncio.create_subprocess_exec(
            program, "get", "pods", env=environment, stdout=subprocess.PIPE, start_new_session=True
        )
        output, _errors = await process.communicate()
        took.append(time.perf_counter() - began)
        lines = output.count(b"\n") - 1
    return lines, round(statistics.median(took), 3)


def _succeeded(number: int) -> Pod:
    """A stored pod that needs nothing from anybody for the next minutes."""
    now = SystemClock().now()
    pod = AsyncClient.pod(f"stored-{number:06d}", "registry.local/app:1", labels=LABELS)
    metadata = pod.metadata.model_copy(update={"uid": f"stored-{number}", "creation_timestamp": now, "generation": 1})
    status = pod.status.model_copy(update={"phase": PodPhase.SUCCEEDED, "last_phase_change": now})
    return pod.model_copy(update={"metadata": metadata, "status": status})


# ---------------------------------------------------------------- report


def table(found: Measured) -> str:
    """The result for people."""
    lines = [f"{found.pods} pods, {found.shards} shards; seconds from the kill"]
    lines.append(f"{'killed':<18}{'API':>8}{'control':>9}{'new pod':>9}{'dispatches':>12}{'started twice':>15}")
    lines += [
        f"{kill.what:<18}{kill.api_s:>8.2f}{kill.control_s:>9.2f}{kill.new_pod_s:>9.2f}"
        f"{kill.dispatches:>12}{kill.repeated_starts:>15}"
        for kill in found.kills
    ]
    if found.listed:
        lines.append(f"milpactl get pods, {found.listed} pods: {found.list_s} s")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.restart", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--pods", type=int, default=3000, help="how many run (default 3000)")
    parser.add_argument("--shards", type=int, default=2, help="shard actors (default 2)")
    parser.add_argument("--list", type=int, default=10_000, help="pods to time a list with; 0: none (default 10000)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the result there")
    options = parser.parse_args()
    try:
        with hollow_cluster(options.shards, options.pods + 10) as cluster, cluster.installation.ray.connected():
            found = asyncio.run(measure(cluster, options))
    except (BenchmarkError, MilpaError) as error:
        say(f"restart: {error}")
        return 1
    except KeyboardInterrupt:
        say("restart: interrupted; everything is taken down")
        return 130
    print(table(found))
    if options.json:
        options.json.write_text(json.dumps(asdict(found), indent=2) + "\n")
    return 0 if not any(kill.repeated_starts for kill in found.kills) else 1


if __name__ == "__main__":
    sys.exit(main())
