"""Pods to Running and away again: ``python -m benchmarks.churn [--pods 3000] [--shards 2] [--json FILE]``.

Real etcd, Ray, shards, coordinator, API server, gRPC and mutual TLS; only the instances are hollow
(``benchmarks.hollow_cloud``). Prints rates, latencies, CPU and memory by process; progress goes to stderr.
"""

import argparse
import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.accounting import MIB, Pids, Sample, cpu_between, percentile, sample
from benchmarks.cluster import OUTSIDE, BenchmarkError, Cluster, hollow_cluster, say
from benchmarks.load import Tracker, pods
from benchmarks.profiling import Recording
from milpa_ray.client import AsyncClient
from milpa_ray.errors import MilpaError

PROBE = "probe"
BASELINE_S = 5.0
SETTLE_S = 3.0
TIMEOUT_S = 900.0
CLI_RUNS = 3


@dataclass
class Measured:
    """What was found. Times in seconds; CPU in seconds by role; memory in bytes by role."""

    pods: int
    shards: int
    submit_s: float = 0.0
    running_s: float = 0.0
    create_to_running_s: list[float] = field(default_factory=list)
    rate_by_third: list[float] = field(default_factory=list)
    get_ms: dict[str, dict[str, Any]] = field(default_factory=dict)
    cli_s: dict[str, float] = field(default_factory=dict)
    create_cpu_s: dict[str, float] = field(default_factory=dict)
    delete_cpu_s: dict[str, float] = field(default_factory=dict)
    empty_cores: dict[str, float] = field(default_factory=dict)
    idle_cores: dict[str, float] = field(default_factory=dict)
    before: Sample | None = None
    running: Sample | None = None
    calls: dict[str, float] = field(default_factory=dict)
    repeated_starts: int = 0
    deleted_s: float = 0.0
    gone_s: float = 0.0

    def summary(self) -> dict[str, Any]:
        """The keys of the result file."""
        assert self.before is not None
        assert self.running is not None
        grown = {role: (self.running.pss[role] - self.before.pss.get(role, 0)) for role in self.running.pss}
        return {
            "pods": self.pods,
            "shards": self.shards,
            "pods_per_s_running": round(self.pods / self.running_s, 1),
            "pods_per_s_by_third": [round(rate, 1) for rate in self.rate_by_third],
            "pods_per_s_submitted": round(self.pods / self.submit_s, 1),
            "p50_s": round(percentile(self.create_to_running_s, 0.5), 3),
            "p99_s": round(percentile(self.create_to_running_s, 0.99), 3),
            "cpu_s_per_pod": round(ours(self.create_cpu_s) / self.pods, 6),
            "cpu_s_per_pod_by_process": {k: round(v / self.pods, 6) for k, v in self.create_cpu_s.items()},
            "delete_cpu_s_per_pod": round(ours(self.delete_cpu_s) / self.pods, 6),
            "delete_cpu_s_per_pod_by_process": {k: round(v / self.pods, 6) for k, v in self.delete_cpu_s.items()},
            "empty_cpu_cores": round(ours(self.empty_cores), 3),
            "idle_cpu_cores": round(ours(self.idle_cores), 3),
            "idle_cpu_cores_by_process": {k: round(v, 3) for k, v in self.idle_cores.items()},
            "rss_mib": round(ours(self.running.rss) / MIB, 1),
            "rss_mib_by_process": {k: round(v / MIB, 1) for k, v in self.running.rss.items()},
            "kib_per_pod": round(ours(grown) / 1024 / self.pods, 1),
            "kib_per_pod_by_process": {k: round(v / 1024 / self.pods, 1) for k, v in grown.items()},
            "get_pod_ms": self.get_ms,
            "cli_s": {k: round(v, 3) for k, v in self.cli_s.items()},
            "agent_calls_per_pod": {k: round(v / self.pods, 2) for k, v in self.calls.items()},
            "repeated_starts": self.repeated_starts,
            "pods_deleted_s": round(self.deleted_s, 1),
            "everything_gone_s": round(self.gone_s, 1),
        }


def ours(by_role: Mapping[str, float]) -> float:
    """The sum over Milpa's own processes: without the hollow cloud and the benchmark's clients."""
    return sum(value for role, value in by_role.items() if role not in OUTSIDE)


# ---------------------------------------------------------------- measuring


async def measure(cluster: Cluster, pids: Pids, options: argparse.Namespace) -> Measured:
    """Creates, keeps and deletes the pods."""
    found = Measured(options.pods, options.shards)
    async with cluster.aio_client(timeout_s=120.0) as client:
        await client.submit(AsyncClient.pod(PROBE, "registry.local/app:1"))
        await client.wait(PROBE, timeout_s=60)
        found.before, found.empty_cores = await idle_cost(pids, min(BASELINE_S, options.keep_s))
        async with Tracker().following(client) as tracker:
            await _create(cluster, client, tracker, pids, found)
            say(f"{options.pods} pods run after {found.running_s:.1f} s")
            await asyncio.sleep(SETTLE_S)
            found.running, found.idle_cores = await idle_cost(pids, options.keep_s)
            await _idle_latencies(cluster, found)
            stats = await cluster.hollow_stats()
            found.calls, found.repeated_starts = stats["calls"], len(stats["repeated"])
            if not options.no_delete:
                await _delete(client, tracker, pids, found)
    return found


async def _create(cluster: Cluster, client: AsyncClient, tracker: Tracker, pids: Pids, found: Measured) -> None:
    made = pods(found.pods)
    probing = await _start_latency(cluster)
    try:
        before = sample(pids)
        began, began_at = time.monotonic(), time.time()
        results = await client.create(made)
        found.submit_s = time.monotonic() - began
        if failed := [result for result in results if not result.ok]:
            raise BenchmarkError(f"{len(failed)} pods were not created: {failed[0].message}")
        say(f"{found.pods} pods submitted in {found.submit_s:.1f} s")
        await tracker.until_running(found.pods, TIMEOUT_S)
        found.create_cpu_s = cpu_between(before, sample(pids))
    finally:
        found.get_ms["while creating"] = await _latency_result(probing)
    ends = sorted(pod.running_at for pod in tracker.pods.values())
    found.running_s = ends[-1] - began_at
    found.create_to_running_s = [pod.running_at - pod.created_at for pod in tracker.pods.values()]
    found.rate_by_third = _rates(ends, began_at)


def _rates(ends: list[float], began_at: float) -> list[float]:
    """Pods per second in each third of the pods."""
    cuts = [len(ends) * part // 3 for part in (1, 2, 3)]
    moments = [began_at, *(ends[cut - 1] for cut in cuts)]
    counts = [cuts[0], cuts[1] - cuts[0], cuts[2] - cuts[1]]
    return [n / max(0.001, b - a) for n, a, b in zip(counts, moments, moments[1:], strict=False)]


async def idle_cost(pids: Pids, seconds: float) -> tuple[Sample, dict[str, float]]:
    """How many cores each role takes while nothing is asked of it, and a sample of the end."""
    first = sample(pids)
    await asyncio.sleep(seconds)
    last = sample(pids)
    lasted = last.at - first.at
    return last, {role: used / lasted for role, used in cpu_between(first, last).items()}


async def _delete(client: AsyncClient, tracker: Tracker, pids: Pids, found: Measured) -> None:
    before, began = sample(pids), time.monotonic()
    results = await client.delete("Pod", [*tracker.pods])
    if failed := [result for result in results if not result.ok]:
        raise BenchmarkError(f"{len(failed)} pods were not deleted: {failed[0].message}")
    await tracker.until_gone(TIMEOUT_S)
    found.deleted_s = time.monotonic() - began
    say(f"all pods are gone after {found.deleted_s:.1f} s")
    while (left := [node async for node in client.list_raw("Node")]) and len(left) > 1:  # the probe's stays
        if time.monotonic() - began > TIMEOUT_S:
            raise BenchmarkError(f"{len(left)} nodes are left after {TIMEOUT_S:.0f} s")
        await asyncio.sleep(1.0)
    found.gone_s = time.monotonic() - began
    # Most of this time is spent waiting until old records may go, so what an empty cluster takes is left out.
    used = cpu_between(before, sample(pids))
    found.delete_cpu_s = {role: max(0.0, s - found.empty_cores[role] * found.gone_s) for role, s in used.items()}


# ---------------------------------------------------------------- latency of reads


async def _start_latency(cluster: Cluster) -> asyncio.subprocess.Process:
    arguments = ["--endpoint", cluster.endpoint, "--cert-dir", str(cluster.home.certs), "--pod", PROBE]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.latency", *arguments),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[1],
        start_new_session=True,
    )
    assert process.stdout is not None
    await process.stdout.readline()
    return process


async def _latency_result(process: asyncio.subprocess.Process) -> dict[str, Any]:
    output, _ = await process.communicate(b"")
    found: dict[str, Any] = json.loads(output or b"{}")
    return found


async def _idle_latencies(cluster: Cluster, found: Measured) -> None:
    probing = await _start_latency(cluster)
    await asyncio.sleep(3.0)
    found.get_ms["idle"] = await _latency_result(probing)
    environment = {**os.environ, "MILPA_HOME": str(cluster.home.root), "MILPA_ENDPOINTS": cluster.endpoint}
    program = Path(sys.executable).with_name("milpactl")
    for words in (("--help",), ("get", "pod", PROBE), ("get", "pods")):
        took = []
        for _ in range(CLI_RUNS):
            began = time.perf_counter()
            process = await asyncio.create_subprocess_exec(
                program, *words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            if await process.wait():
                raise BenchmarkError(f"milpactl {' '.join(words)} failed")
            took.append(time.perf_counter() - began)
        found.cli_s[f"milpactl {' '.join(words)}"] = statistics.median(took)


# ---------------------------------------------------------------- report


def table(found: Measured) -> str:
    """The result for people."""
    said = found.summary()
    lines = [
        f"pods {said['pods']}, shards {said['shards']}",
        f"  to Running      {said['pods_per_s_running']} pods/s (by third: {said['pods_per_s_by_third']}; submitted at "
        f"{said['pods_per_s_submitted']}/s)",
        f"  create-Running  p50 {said['p50_s']} s, p99 {said['p99_s']} s",
        f"  CPU             {said['cpu_s_per_pod'] * 1000:.2f} ms per pod to Running, "
        f"{said['delete_cpu_s_per_pod'] * 1000:.2f} ms to delete",
        f"  idle            {said['idle_cpu_cores']} cores with all pods, {said['empty_cpu_cores']} with one",
        f"  memory          {said['rss_mib']} MiB RSS, {said['kib_per_pod']} KiB per pod",
        f"  agents          calls per pod {said['agent_calls_per_pod']}, pods started twice: {said['repeated_starts']}",
        f"  deleted         pods after {said['pods_deleted_s']} s, all records after {said['everything_gone_s']} s",
        *(f"  get pod, {when}: {took}" for when, took in found.get_ms.items()),
        *(f"  {command}: {took:.3f} s" for command, took in found.cli_s.items()),
        "",
        f"{'process':<14}{'create ms/pod':>14}{'delete ms/pod':>14}{'idle cores':>12}{'RSS MiB':>10}{'KiB/pod':>9}",
    ]
    columns = ("cpu_s_per_pod", "delete_cpu_s_per_pod", "idle_cpu_cores", "rss_mib", "kib_per_pod")
    by_process = [said[f"{column}_by_process"] for column in columns]
    for role in by_process[0]:
        create, delete, idle, rss, kib = (column.get(role, 0.0) for column in by_process)
        lines.append(f"{role:<14}{create * 1000:>14.2f}{delete * 1000:>14.2f}{idle:>12.3f}{rss:>10.1f}{kib:>9.1f}")
    return "\n".join(lines)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.churn", description=(__doc__ or "").split("\n\n")[0])
    add = parser.add_argument
    add("--pods", type=int, default=3000, help="how many (default 3000)")
    add("--shards", type=int, default=2, help="shard actors (default 2)")
    add("--keep-s", type=float, default=20.0, help="how long the idle cost is measured (default 20)")
    add("--no-delete", action="store_true", help="end with the pods running")
    add("--json", type=Path, metavar="FILE", help="also write the result there")
    add("--logs", type=Path, metavar="DIR", help="keep the logs of all parts there")
    add("--profile", metavar="PROCESS", help="record one of shard-N, api, coordinator, hollow with py-spy")
    add("--profile-to", type=Path, default=Path("profile.txt"), help="collapsed stacks (default profile.txt)")
    return parser.parse_args()


def main() -> int:
    options = _options()
    try:
        with hollow_cluster(options.shards, options.pods + 10) as cluster:
            with cluster.installation.ray.connected():
                actors = cluster.actors()
            pids = {**cluster.pids(actors), "client": [os.getpid()]}
            recording = None
            if options.profile:
                recording = Recording.start(pids[options.profile][0], options.profile_to)
            try:
                found = asyncio.run(measure(cluster, pids, options))
            finally:
                if recording is not None:
                    print("\n".join(recording.finish()))
                if options.logs:
                    shutil.copytree(cluster.home.log, options.logs, dirs_exist_ok=True)
    except (BenchmarkError, MilpaError) as error:
        say(f"churn: {error}")
        return 1
    except KeyboardInterrupt:
        say("churn: interrupted; everything is taken down")
        return 130
    print(table(found))
    if options.json:
        options.json.write_text(json.dumps(found.summary(), indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
