"""The benchmark of choices: its methods agree, also over all regions, and it writes what it prints."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from benchmarks.selection import POLICIES, Pandas, by_loop, distinct_shapes, joined, realistic_mix
from cloud.catalog import load_catalog
from milpa_ray.planner.selection import Selector
from tests.planner.oracle import Loop


def test_the_methods_agree_over_several_regions() -> None:
    catalogue = joined([load_catalog(name) for name in ("us-east-1", "sa-east-1", "us-gov-west-1")])
    loop = Loop(catalogue)
    for make in (distinct_shapes, realistic_mix):
        batch = make(40, np.random.default_rng(2))
        found = Selector(catalogue).select(POLICIES, batch.policy, batch.cpu, batch.memory_mib)
        expected = list(zip(found.row.tolist(), found.cost.tolist(), strict=True))
        assert by_loop(loop, batch) == expected
        assert Pandas(catalogue, loop)(batch) == expected


def test_it_prints_a_table_and_writes_its_rows(tmp_path: Path) -> None:
    out = tmp_path / "rows.json"
    command = [sys.executable, "-m", "benchmarks.selection", "--scope", "region", "--most", "3000", "--json", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100)
    rows = json.loads(out.read_text())
    keys = {"method", "scope", "requests", "distinct", "choices_per_s", "peak_mib"}
    assert all(keys <= row.keys() for row in rows)
    assert {row["method"] for row in rows} == {"numpy", "loop", "pandas"}
    assert {row["requests"] for row in rows} == {1, 1000, 3000}
    assert all(row["choices_per_s"] > 0 for row in rows)
    assert sum(line.startswith("| numpy | region |") for line in done.stdout.splitlines()) == 5
