"""The simulation is worth its time only if it catches bugs: each mutant must fail within a bounded number of seeds."""

import pytest

from tests.simulation.mutants import MUTANTS
from tests.simulation.test_seeds import run_range

MOST_SEEDS = 150


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_caught(name: str):
    printed = run_range(0, MOST_SEEDS, "--mutant", name, "-x")
    assert "replay:" in printed, f"{MOST_SEEDS} seeds did not notice it"
    assert "the harness failed" not in printed, printed
