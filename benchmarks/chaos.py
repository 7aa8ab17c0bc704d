"""Faults on real processes: ``python -m benchmarks.chaos [--minutes 3] [--rate 20] [--seed 1] [--json FILE]``.

Real etcd, Ray, shards, coordinator, API server, gRPC and mutual TLS; only the instances are hollow. Pods are created
and deleted at a rate while parts are killed, stopped and continued, and the cloud fails. Then the faults stop,
everything must settle, and the simulation's invariants are checked from etcd, the agents' records and the cloud's list.
The seed replays the same schedule of faults; when exactly they strike, and what they hit, differs from run to run.

Run as root it works in a network namespace of its own, so that it can go on beside others. Exit code 1: a violation.
"""

import argparse
import asyncio
import json
import os
import shutil
import statistics
import sys
import time
from collections import Counter
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.chaos_checks import Truth, broken, unmet
from benchmarks.chaos_faults import Fault, Injector, schedule
from benchmarks.chaos_users import Ledger, Users, Wish, reading
from benchmarks.chaos_witness import Witness, read_all
from benchmarks.cluster import CLUSTER, BenchmarkError, Cluster, hollow_cluster, say
from benchmarks.load import Tracker
from cloud.local.client import LocalCompute
from milpa_ray.errors import MilpaError, Retryable
from milpa_ray.keys import SLOTS, Keys, slot_of
from milpa_ray.store.connection import EtcdConfig
from milpa_ray.store.etcd import EtcdStore
from shards.local_cloud import hypervisor_socket

LIMITS = {"terminatedNodeKeptS": 5, "gcIntervalS": 10, "gcMinAgeS": 10, "pollIntervalS": 5}
"""Shorter than the defaults: what these pace shall happen during the faults, too."""
ANSWER_S = 10.0
CLIENT_RETRY_S = 60.0
SETTLE_S = 240.0
PROBE_S = 180.0
NODES = 4000
MAX_SHOWN = 20
PROBE_LIVES = 1_000_000
"""Above the numbers of all other lives."""


@dataclass(slots=True)
class Struck:
    """A fault that was carried out, and the seconds until the pod created right after it ran (0: it never did)."""

    fault: Fault
    recovery_s: float = 0.0


@dataclass
class Report:
    """What a run has found."""

    options: argparse.Namespace
    ledger: Ledger
    struck: list[Struck] = field(default_factory=list)
    missed: list[Fault] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    settled_s: float = 0.0
    changes: int = 0
    starts: int = 0
    refused: int = 0
    running: int = 0

    def summary(self) -> dict[str, Any]:
        """The keys of the result file."""
        return {
            **{name: getattr(self.options, name) for name in ("seed", "minutes", "rate", "shards")},
            "faults": len(self.struck),
            "faults_missed": len(self.missed),
            "pods_created": self.ledger.created,
            "pods_deleted": self.ledger.deleted,
            "pods_running": self.running,
            "answers_repeated": dict(self.ledger.repeated),
            "longest_write_s": round(self.ledger.longest_write_s, 2),
            "longest_read_s": round(self.ledger.longest_read_s, 2),
            "recovery_s": {
                kind: {
                    "faults": len(took),
                    "p50": round(statistics.median(took), 2),
                    "max": round(max(took), 2),
                }
                for kind, took in sorted(self.by_kind().items())
            },
            "settled_s": round(self.settled_s, 1),
            "changes_judged": self.changes,
            "starts": self.starts,
            "stale_calls_refused": self.refused,
            "violations": len(self.violations),
        }

    def by_kind(self) -> dict[str, list[float]]:
        """Recovery times by kind of fault."""
        found: dict[str, list[float]] = {}
        for struck in self.struck:
            found.setdefault(f"{struck.fault.kind} {struck.fault.target}", []).append(struck.recovery_s)
        return found


# ---------------------------------------------------------------- the run


class Run:
    """One run on a running cluster."""

    def __init__(self, cluster: Cluster, options: argparse.Namespace) -> None:
        self._cluster = cluster
        self._options = options
        self._keys = Keys(CLUSTER)
        self._probes: set[asyncio.Task[None]] = set()
        self.report = Report(options, Ledger())

    async def run(self) -> Report:
        """Faults and churn, then peace, then judgement."""
        endpoint = self._cluster.installation.daemons()["etcd"].removeprefix("running at ")
        store = EtcdStore(EtcdConfig((endpoint,)))
        witness = Witness(store, self._keys)
        async with AsyncExitStack() as stack:
            stack.push_async_callback(store.close)
            await witness.start()
            following = asyncio.create_task(witness.follow())
            stack.push_async_callback(_ended, following)
            client = await stack.enter_async_context(
                self._cluster.aio_client(timeout_s=ANSWER_S, retry_s=CLIENT_RETRY_S)
            )
            watching = await stack.enter_async_context(self._cluster.aio_client(timeout_s=SETTLE_S))
            tracker = await stack.enter_async_context(Tracker().following(watching))
            users = Users(client, Random(f"users {self._options.seed}"), self.report.ledger)
            stack.push_async_callback(users.close)
            await stack.enter_async_context(reading(client, self.report.ledger))
            await self._under_faults(users, tracker)
            await self._settle(users, store)
            await self._judge(witness, following, store, tracker)
        return self.report

    async def _under_faults(self, users: Users, tracker: Tracker) -> None:
        span_s = self._options.minutes * 60.0
        injector = Injector(self._cluster)
        living = asyncio.create_task(users.live(self._options.rate, span_s))
        try:
            began = asyncio.get_running_loop().time()
            for fault in schedule(Random(self._options.seed), span_s, self._options.shards):
                await asyncio.sleep(max(0.0, began + fault.at_s - asyncio.get_running_loop().time()))
                if await injector.strike(fault):
                    self._probe(fault, users, tracker)
                else:
                    self.report.missed.append(fault)
            await living
        finally:
            await _ended(living)
            await injector.release()
        say("the faults are over")

    def _probe(self, fault: Fault, users: Users, tracker: Tracker) -> None:
        struck = Struck(fault)
        self.report.struck.append(struck)
        task = asyncio.create_task(self._recovery(struck, len(self.report.struck), users, tracker))
        self._probes.add(task)
        task.add_done_callback(self._probes.discard)

    async def _recovery(self, struck: Struck, number: int, users: Users, tracker: Tracker) -> None:
        """Creates a pod where the fault hurts, and notes when it runs."""
        began = time.monotonic()
        wish = Wish(probe_name(number, struck.fault.target, self._options.shards), PROBE_LIVES + number)
        self.report.ledger.wishes.append(wish)
        await users.create(wish)
        if not wish.created:
            return
        while (seen := tracker.pods.get(wish.name)) is None or seen.phase != "Running":
            if time.monotonic() - began > PROBE_S:
                self.report.violations.append(f"probe {wish.name} of '{struck.fault}' did not run in {PROBE_S:.0f} s")
                return
            await asyncio.sleep(0.02)
        struck.recovery_s = time.monotonic() - began
        say(f"  {struck.fault.at_s:6.1f} s  {struck.fault}: a new pod ran after {struck.recovery_s:.2f} s")
        await users.delete(wish)

    async def _settle(self, users: Users, store: EtcdStore) -> None:
        """Waits until all is as it must be; notes what is not in time."""
        began = time.monotonic()
        if self._probes:
            await asyncio.wait(self._probes, timeout=SETTLE_S)
        if not await users.settle(SETTLE_S):
            self.report.violations.append(f"{self.report.ledger.pending} operations have no answer")
        while left := await self._left(store):
            if time.monotonic() - began > SETTLE_S:
                self.report.violations += left
                break
            await asyncio.sleep(0.5)
        self.report.settled_s = time.monotonic() - began

    async def _left(self, store: EtcdStore) -> list[str]:
        try:
            return unmet(await self._truth(store), self.report.ledger)
        except Retryable as error:  # a part that has just been continued
            return [str(error)]

    async def _truth(self, store: EtcdStore) -> Truth:
        compute = LocalCompute(hypervisor_socket(self._cluster.home), CLUSTER)
        try:
            instances = await compute.list_instances()
        finally:
            await compute.close()
        agents = await self._cluster.hollow_history()
        entries, _ = await read_all(store, self._keys)
        return Truth.of(self._keys, entries, instances, agents)

    async def _judge(
        self, witness: Witness, following: "asyncio.Task[None]", store: EtcdStore, tracker: Tracker
    ) -> None:
        report = self.report
        if not await witness.caught_up(SETTLE_S) or following.done():
            report.violations.append("the watch of the store did not follow to the end")
        truth = await self._truth(store)
        report.violations += broken(truth, report.ledger, witness)
        phases = {pod.name: str(pod.status.phase) for pod in truth.pods.values()}
        if phases != {name: pod.phase for name, pod in tracker.pods.items()}:
            report.violations.append("a watch of the API server has told something else than the store holds")
        report.changes = witness.changes
        report.running = sum(phase == "Running" for phase in phases.values())
        report.starts = sum(len(agent["runs"]) for agent in truth.agents)
        report.refused = sum(agent["refused"] for agent in truth.agents)


async def _ended(task: "asyncio.Task[None]") -> None:
    task.cancel()
    with suppress(asyncio.CancelledError, MilpaError):
        await task


def probe_name(number: int, target: str, shards: int) -> str:
    """A name for the probe of fault ``number``: one of the shard's own, if a shard is hit."""
    names = (f"probe-{number}-{index}" for index in range(1000))
    if not target.startswith("shard-"):
        return next(names)
    shard = int(target.removeprefix("shard-"))
    edges = SLOTS * shard // shards, SLOTS * (shard + 1) // shards
    return next(name for name in names if edges[0] <= slot_of(name) < edges[1])


# ---------------------------------------------------------------- report


def table(report: Report) -> str:
    """The result for people."""
    said = report.summary()
    repeated = ", ".join(f"{text} {count}" for text, count in sorted(said["answers_repeated"].items())) or "none"
    lines = [
        f"seed {said['seed']}, {said['minutes']} min at {said['rate']} pods/s, shards {said['shards']}",
        f"  faults      {said['faults']} ({said['faults_missed']} found their victim down)",
        f"  pods        {said['pods_created']} created, {said['pods_deleted']} deleted, {said['pods_running']} Running "
        f"in the end; {said['starts']} starts on agents",
        f"  repeated    {repeated}",
        f"  stalls      longest write {said['longest_write_s']} s, longest time without an answered read "
        f"{said['longest_read_s']} s",
        f"  judged      {said['changes_judged']} changes of the store; agents refused {said['stale_calls_refused']} "
        "calls of deposed owners",
        f"  settled     {said['settled_s']} s after the last fault",
        f"  violations  {said['violations']}",
        "",
        f"{'fault':<22}{'times':>6}{'p50 s':>8}{'max s':>8}   until a pod created right after it runs",
    ]
    for kind, took in said["recovery_s"].items():
        lines.append(f"{kind:<22}{took['faults']:>6}{took['p50']:>8.2f}{took['max']:>8.2f}")
    shown = Counter(report.violations).most_common(MAX_SHOWN)
    lines += [f"VIOLATION: {text}" + (f" ({count} times)" if count > 1 else "") for text, count in shown]
    if len(set(report.violations)) > MAX_SHOWN:
        lines.append(f"and {len(set(report.violations)) - MAX_SHOWN} more")
    return "\n".join(lines)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos", description=(__doc__ or "").split("\n\n")[0])
    add = parser.add_argument
    add("--minutes", type=float, default=3.0, help="how long faults strike (default 3)")
    add("--rate", type=float, default=20.0, help="pods created per second (default 20)")
    add("--seed", type=int, default=1, help="of the schedule of faults (default 1)")
    add("--shards", type=int, default=2, help="shard actors (default 2)")
    add("--json", type=Path, metavar="FILE", help="also write the result there")
    add("--logs", type=Path, metavar="DIR", help="keep the logs of all parts there")
    add("--shared-network", action="store_true", help="use the machine's network, not a namespace of its own")
    return parser.parse_args()


def _isolate() -> None:
    """Starts this program anew in a network namespace that has its own loopback only: the agents' port is fixed."""
    inside = 'ip link set lo up && exec "$0" -m benchmarks.chaos "$@" --shared-network'
    os.execvp("unshare", ["unshare", "--net", "sh", "-c", inside, sys.executable, *sys.argv[1:]])


def main() -> int:
    options = _options()
    if os.geteuid() == 0 and not options.shared_network and shutil.which("unshare"):
        _isolate()
    try:
        with hollow_cluster(options.shards, NODES, LIMITS) as cluster:
            try:
                report = asyncio.run(Run(cluster, options).run())
            finally:
                if options.logs:
                    shutil.copytree(cluster.home.log, options.logs, dirs_exist_ok=True)
    except (BenchmarkError, MilpaError) as error:
        say(f"chaos: {error}")
        return 1
    except KeyboardInterrupt:
        say("chaos: interrupted; everything is taken down")
        return 130
    print(table(report))
    if options.json:
        options.json.write_text(json.dumps({**report.summary(), "wrong": report.violations}, indent=2) + "\n")
    return 1 if report.violations else 0


if __name__ == "__main__":
    sys.exit(main())
