"""How fast the cheapest instance is found: ``python -m benchmarks.selection [--json FILE]``. One thread, no I/O.

Beside the product's tables stand a plain loop over the catalogue and pandas with the same filter and minimum; both
answer a sample, and every answer of theirs is compared with the product's. Requests are numbers and flags, as a pass of
the planner has them once it has read its pods.
"""

import argparse
import gc
import json
import os
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import numpy as np

from cloud.catalog import load_catalog, regions
from milpa_ray.planner.catalogue import Catalogue
from milpa_ray.planner.request import Policy, Request
from milpa_ray.planner.selection import Selector
from tests.planner.oracle import Loop

REGION = "us-east-1"
MILLION = 1_000_000
SAMPLE = 200
"""Requests that the slow methods answer; their rate does not depend on how many there are."""
POLICIES = (
    Policy(),
    Policy(dedicated_cpu=True),
    Policy(spot=True),
    Policy(arch="arm64"),
    Policy(sustained_cpu=False),
    Policy(spot=True, dedicated_cpu=True),
    Policy(gpus=1),
    Policy(gpus=4, spot=True),
)
POLICY_SHARES = (0.55, 0.1, 0.15, 0.08, 0.04, 0.04, 0.03, 0.01)


@dataclass(frozen=True)
class Batch:
    """Requests as columns."""

    policy: np.ndarray
    cpu: np.ndarray
    memory_mib: np.ndarray

    def __len__(self) -> int:
        return len(self.cpu)

    def head(self, count: int) -> "Batch":
        return Batch(self.policy[:count], self.cpu[:count], self.memory_mib[:count])

    @property
    def distinct(self) -> int:
        columns = np.rec.fromarrays([self.policy, self.cpu, self.memory_mib])
        return len(np.unique(columns))

    def requests(self) -> Iterator[Request]:
        for policy, cpu, memory in zip(self.policy.tolist(), self.cpu.tolist(), self.memory_mib.tolist(), strict=True):
            yield Request(POLICIES[policy], cpu, memory)


@dataclass(frozen=True)
class Row:
    """``distinct`` counts different requests; ``measured`` is how many were answered for the rate; ``peak_mib`` is
    what the method held at most besides requests and catalogue, its own tables and the answers included."""

    method: str
    scope: str
    requests: int
    distinct: int
    choices_per_s: float
    peak_mib: float
    measured: int


def distinct_shapes(count: int, rng: np.random.Generator) -> Batch:
    """No request twice: sizes from a twentieth of a core to 192, and from 64 MiB to 2 TiB."""
    cpu = np.exp(rng.uniform(np.log(0.05), np.log(192), count))
    memory = np.exp(rng.uniform(np.log(64), np.log(2 << 20), count)).astype(np.int64)
    return Batch(rng.choice(len(POLICIES), count, p=POLICY_SHARES), cpu, memory)


def realistic_mix(count: int, rng: np.random.Generator) -> Batch:
    """What people write: round sizes, small ones most of the time, some gibibytes per core."""
    cpus = np.array([0.1, 0.2, 0.25, 0.5, 1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64])
    per_core = np.array([512, 1024, 2048, 3072, 4096, 6144, 8192])
    likely = 1 / np.arange(1, len(cpus) + 1)
    cpu = rng.choice(cpus, count, p=likely / likely.sum())
    memory = np.ceil(cpu * rng.choice(per_core, count) / 128).astype(np.int64) * 128
    return Batch(rng.choice(len(POLICIES), count, p=POLICY_SHARES), cpu, memory)


def joined(catalogues: Sequence[Catalogue]) -> Catalogue:
    """All regions' types as those of one: ``region/type``, in the zones of its region."""
    zones = [one.zones or (f"{one.region}?",) for one in catalogues]
    offered = [one.offered if one.zones else np.ones((len(one), 1), dtype=np.bool_) for one in catalogues]
    spot = [one.price_spot_zone if one.zones else one.price_spot[:, None] for one in catalogues]
    columns = {
        name: np.concatenate([getattr(one, name) for one in catalogues])
        for name, value in vars(catalogues[0]).items()
        if isinstance(value, np.ndarray) and value.ndim == 1
    }
    return Catalogue(
        region="all",
        names=tuple(f"{one.region}/{name}" for one in catalogues for name in one.names),
        zones=tuple(zone for group in zones for zone in group),
        price_spot_zone=_diagonal(spot, np.nan),
        offered=_diagonal(offered, filler=False),
        **columns,
    )


def _diagonal(blocks: Sequence[np.ndarray], filler: float) -> np.ndarray:
    height, width = np.sum([block.shape for block in blocks], axis=0)
    whole = np.full((height, width), filler, dtype=blocks[0].dtype)
    top = left = 0
    for block in blocks:
        whole[top : top + block.shape[0], left : left + block.shape[1]] = block
        top, left = top + block.shape[0], left + block.shape[1]
    return whole


# ---------------------------------------------------------------- methods

Answers = list[tuple[int, float]]
"""Row and cost of each choice."""


def by_loop(loop: Loop, batch: Batch) -> Answers:
    return [loop.choose(request)[:2] for request in batch.requests()]


class Pandas:
    """The same filter and minimum over data frames: one per policy, with everything that holds for all its requests
    worked out beforehand, and sorted so that the first of several cheapest is the right one."""

    def __init__(self, catalogue: Catalogue, loop: Loop) -> None:
        import pandas as pd

        from milpa_ray.planner.fullness import NOTHING_FULL
        from tests.planner.oracle import allowed

        self._frames = []
        for policy in POLICIES:
            kinds = [(row, kind) for row, kind in enumerate(loop.kinds) if allowed(kind, policy)]
            within = policy.sustained_cpu is False
            frame = pd.DataFrame(
                {
                    "row": [row for row, _ in kinds],
                    "price": [loop.price(kind, policy, NOTHING_FULL) for _, kind in kinds],
                    "generation": [-kind.generation for _, kind in kinds],
                    "memory": [-kind.memory_mib for _, kind in kinds],
                    "memory_mib": [kind.memory_mib for _, kind in kinds],
                    "name": [kind.name for _, kind in kinds],
                    "limit": [kind.baseline if within and kind.burstable else kind.vcpus for _, kind in kinds],
                    "surcharge": [0.0 if within or not kind.burstable else kind.surcharge for _, kind in kinds],
                    "baseline": [kind.baseline for _, kind in kinds],
                }
            )
            frame = frame[frame["price"] < np.inf].sort_values(["price", "generation", "memory", "name"])
            self._frames.append(frame.reset_index(drop=True))

    def __call__(self, batch: Batch) -> Answers:
        answers: Answers = []
        for policy, cpu, memory in zip(
            batch.policy.tolist(), batch.cpu.tolist(), batch.memory_mib.tolist(), strict=True
        ):
            frame = self._frames[policy]
            fits = frame[(frame["limit"] >= cpu) & (frame["memory_mib"] >= memory)]
            if fits.empty:
                answers.append((-1, float("inf")))
                continue
            cost = fits["price"] + fits["surcharge"] * (cpu - fits["baseline"]).clip(lower=0.0)
            best = cost.idxmin()
            answers.append((int(fits["row"][best]), float(cost[best])))
        return answers


# ---------------------------------------------------------------- measuring


def seconds(work: Callable[[], object], repeats: int) -> float:
    """Median of the CPU times of ``repeats`` runs after one that warms up: one thread, so it is the time on a core of
    its own, whatever else the machine does."""
    work()
    times = []
    for _ in range(repeats):
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return median(times)


def peak_mib(work: Callable[[], object]) -> float:
    """Most memory held at a time beyond what was held before."""
    gc.collect()
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 2**20


def numpy_row(catalogue: Catalogue, scope: str, batch: Batch) -> Row:
    selector = Selector(catalogue)
    if len(batch) == 1:
        # One request by itself, as it comes; different ones, so that none is answered from the processor's memory.
        many = list(realistic_mix(2000, np.random.default_rng(5)).requests())
        rate = len(many) / seconds(lambda: [selector.select_one(request) for request in many], 9)
        request = many[0]
        return Row("numpy", scope, 1, 1, rate, peak_mib(lambda: Selector(catalogue).select_one(request)), len(many))

    def work(chosen_by: Selector) -> object:
        return chosen_by.select(POLICIES, batch.policy, batch.cpu, batch.memory_mib)

    rate = len(batch) / seconds(lambda: work(selector), 9 if len(batch) > 1000 else 200)
    return Row(
        "numpy", scope, len(batch), batch.distinct, rate, peak_mib(lambda: work(Selector(catalogue))), len(batch)
    )


def slow_row(method: str, scope: str, batch: Batch, answer: Callable[[Batch], Answers], expected: Answers) -> Row:
    """``expected`` are the product's answers for the start of the batch."""
    few = batch.head(min(len(batch), len(expected)))
    began = time.process_time()
    answers = answer(few)
    took = time.process_time() - began
    if answers != expected[: len(few)]:
        wrong = next(i for i, pair in enumerate(zip(answers, expected, strict=False)) if pair[0] != pair[1])
        raise SystemExit(f"{method} and numpy differ in {scope}, request {wrong}: {answers[wrong]}, {expected[wrong]}")
    return Row(
        method, scope, len(batch), batch.distinct, len(few) / took, peak_mib(lambda: answer(few.head(5))), len(few)
    )


def rows_of(catalogue: Catalogue, scope: str, most: int = MILLION) -> Iterator[Row]:
    """All methods for batches of one, a thousand and ``most`` requests."""
    loop = Loop(catalogue)
    pandas = Pandas(catalogue, loop)
    selector = Selector(catalogue)
    for make, sizes in ((distinct_shapes, (1, 1000, most)), (realistic_mix, (1000, most))):
        for size in sorted(set(sizes)):
            batch = make(size, np.random.default_rng(size))
            yield numpy_row(catalogue, scope, batch)
            few = batch.head(SAMPLE if scope == "region" else SAMPLE // 10)
            found = selector.select(POLICIES, few.policy, few.cpu, few.memory_mib)
            expected = list(zip(found.row.tolist(), found.cost.tolist(), strict=True))
            yield slow_row("loop", scope, batch, lambda asked: by_loop(loop, asked), expected)
            yield slow_row("pandas", scope, batch, pandas, expected)


def table(rows: Sequence[Row]) -> str:
    """The rows as markdown."""
    lines = ["| Method | Scope | Requests | Distinct | Choices/s | Peak MiB |", "|---|---|---|---|---|---|"]
    for row in rows:
        rate = f"{row.choices_per_s:,.0f}"
        peak = f"{row.peak_mib:.1f}"
        lines.append(f"| {row.method} | {row.scope} | {row.requests:,} | {row.distinct:,} | {rate} | {peak} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--json", type=Path, help="also write the rows here")
    parser.add_argument("--scope", choices=("region", "all"), help="only this one")
    parser.add_argument("--most", type=int, default=MILLION, help="requests of the largest batch")
    options = parser.parse_args()
    rows: list[Row] = []
    for scope in ("region", "all") if options.scope is None else (options.scope,):
        names = (REGION,) if scope == "region" else regions()
        catalogues = [load_catalog(name) for name in names]
        catalogue = catalogues[0] if scope == "region" else joined(catalogues)
        print(f"{scope}: {len(catalogue):,} offers in {len(names)} regions", file=sys.stderr, flush=True)
        rows += rows_of(catalogue, scope, options.most)
    print(table(rows))
    print(f"\nOne thread, its CPU time; load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores.")
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
