"""Runs seeds: ``python -m tests.simulation SEED [-v]`` replays one, ``--range A B`` runs A to B - 1.

String hashing is fixed first (by starting Python anew), since the order of a set of strings is part of a run.
"""

import argparse
import os
import sys
import time

HASH_SEED = "PYTHONHASHSEED"


def main() -> int:
    if os.environ.get(HASH_SEED) != "0":
        os.environ[HASH_SEED] = "0"
        os.execv(sys.executable, [sys.executable, "-m", "tests.simulation", *sys.argv[1:]])
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("seed", type=int, nargs="?", help="replay this seed")
    parser.add_argument("-v", "--verbose", action="store_true", help="print every event and log line")
    parser.add_argument("--range", type=int, nargs=2, metavar=("A", "B"), help="run the seeds A to B - 1")
    parser.add_argument("--twice", action="store_true", help="run each seed twice and compare the traces")
    parser.add_argument("-x", "--stop-at-first", action="store_true", help="stop at the first failure")
    parser.add_argument("--mutant", metavar="NAME", help="plant this bug first; 'list' names them all")
    options = parser.parse_args()
    if options.mutant == "list":
        return list_mutants()
    if (options.seed is None) == (options.range is None):
        parser.error("give a seed, or --range A B")
    seeds = range(*options.range) if options.range else (options.seed,)
    if options.mutant:
        from tests.simulation.mutants import planted

        with planted(options.mutant):
            return 1 if run(seeds, options) else 0
    return 1 if run(seeds, options) else 0


def list_mutants() -> int:
    from tests.simulation.mutants import MUTANTS

    for name, make in MUTANTS.items():
        print(f"{name}: {make.__doc__}")
    return 0


def run(seeds: "range | tuple[int, ...]", options: argparse.Namespace) -> int:
    """Runs the seeds; how many failed."""
    from tests.simulation.cluster import place_cluster
    from tests.simulation.scenario import run_seed

    failed, started = 0, time.perf_counter()
    for seed in seeds:
        report = run_seed(seed, place_cluster, print if options.verbose else None)
        if options.twice and run_seed(seed, place_cluster).trace_hash != report.trace_hash:
            report.failure = report.failure or "the second run of the same seed took another course"
        if report.failure:
            failed += 1
            print(f"{report}\n  replay: .venv/bin/python -m tests.simulation {seed} -v", flush=True)
        elif options.range is None:
            print(report)
        if failed and options.stop_at_first:
            break
    if options.range:
        print(f"{len(seeds)} seeds, {failed} failed, {time.perf_counter() - started:.1f} s", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
