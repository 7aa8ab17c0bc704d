"""The churn benchmark brings pods to Running and away again, leaves nothing behind, and writes the keys it promises."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from milpa_ray.ports import AGENT_PORT

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
PODS = 50
PROMISED = {"pods", "pods_per_s_running", "p50_s", "p99_s", "cpu_s_per_pod", "idle_cpu_cores", "rss_mib"}


@pytest.mark.timeout(120)
def test_churn_measures_and_cleans_up(tmp_path: Path) -> None:
    result, temporary = tmp_path / "result.json", tmp_path / "tmp"
    temporary.mkdir()
    command = [sys.executable, "-m", "benchmarks.churn", "--pods", str(PODS), "--keep-s", "1", "--no-delete"]
    done = subprocess.run(
        [*command, "--json", str(result)],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(temporary)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    if f"port {AGENT_PORT}" in done.stderr and done.returncode:
        pytest.skip("another benchmark holds the agents' port on this machine")
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(result.read_text())
    assert set(found) >= PROMISED
    assert found["pods"] == PODS
    assert found["repeated_starts"] == 0
    assert found["agent_calls_per_pod"]["Dispatch"] >= 1
    assert 0 < found["p50_s"] <= found["p99_s"]
    assert found["pods_per_s_running"] > 0
    assert found["cpu_s_per_pod"] > 0
    assert "to Running" in done.stdout
    assert list(temporary.iterdir()) == []
    assert _processes_below(temporary) == []


def _processes_below(folder: Path) -> list[str]:
    """Command lines that name ``folder``, where the benchmark's home was."""
    lines = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                lines.append((entry / "cmdline").read_bytes().decode(errors="replace"))
            except OSError:
                continue
    return [line for line in lines if str(folder) in line]
