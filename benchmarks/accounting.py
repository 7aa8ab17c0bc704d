"""What processes cost, read from /proc: CPU seconds and memory, summed by role. Measures only; Linux."""

import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
MIB = 1 << 20

Pids = Mapping[str, Iterable[int]]
"""The processes of each role, such as ``etcd`` or ``shard-0``."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at all roles. ``cpu_s`` is by role and process; memory is in bytes by role. PSS counts a shared page in
    part for each process that has it, so that the sum over processes is what the machine gives."""

    at: float
    cpu_s: Mapping[str, Mapping[int, float]]
    rss: Mapping[str, int]
    pss: Mapping[str, int]


def sample(pids: Pids) -> Sample:
    """Looks at all processes; those that have ended count nothing."""
    cpu: dict[str, dict[int, float]] = {}
    rss: dict[str, int] = {}
    pss: dict[str, int] = {}
    for role, members in pids.items():
        living = [pid for pid in members if Path(f"/proc/{pid}").exists()]
        cpu[role] = {pid: cpu_seconds(pid) for pid in living}
        rss[role] = sum(_rss(pid) for pid in living)
        pss[role] = sum(_pss(pid) for pid in living)
    return Sample(time.monotonic(), cpu, rss, pss)


def cpu_between(first: Sample, last: Sample) -> dict[str, float]:
    """CPU seconds by role. A process that is in ``last`` only counts from its start."""
    return {
        role: sum(used - first.cpu_s.get(role, {}).get(pid, 0.0) for pid, used in members.items())
        for role, members in last.cpu_s.items()
    }


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, 0 when it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _rss(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
    except OSError:
        return 0


def _pss(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


def percentile(values: Iterable[float], share: float) -> float:
    """The value that ``share`` (0 to 1) of all values do not exceed; 0 when there is none."""
    ordered = sorted(values)
    if not ordered:
        return 0.0
    return ordered[min(len(ordered) - 1, max(0, round(share * len(ordered) + 0.5) - 1))]
