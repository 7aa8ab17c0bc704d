"""Many seeds of the whole system under faults. A failure names its seed and the command that replays it.

The seeds run in processes of their own with a fixed hash seed, so that a replay takes the same course.
"""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

SEEDS = 300
CHUNK = 25
SOAK_SEEDS = 5_000


def run_range(first: int, last: int, *options: str) -> str:
    """Runs seeds; what it printed when one failed, else nothing."""
    command = [sys.executable, "-m", "tests.simulation", "--range", str(first), str(last), *options]
    environment = os.environ | {"PYTHONHASHSEED": "0"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    return "" if done.returncode == 0 else done.stdout + done.stderr[-4_000:]


def run_all(first: int, last: int) -> str:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        starts = range(first, last, CHUNK)
        failures = pool.map(lambda start: run_range(start, min(start + CHUNK, last)), starts)
        return "\n".join(filter(None, failures))


@pytest.mark.timeout(600)
def test_seeds():
    failures = run_all(0, SEEDS)
    assert not failures, f"\n{failures}"


@pytest.mark.timeout(120)
def test_a_seed_run_twice_takes_the_same_course():
    failures = run_range(0, 6, "--twice")
    assert not failures, f"\n{failures}"


@pytest.mark.slow
@pytest.mark.timeout(7_200)
def test_soak():
    failures = run_all(SEEDS, SEEDS + SOAK_SEEDS)
    assert not failures, f"\n{failures}"
