"""Where a process spends its time: records it with py-spy (a tool of its own, see README) and sums the stacks up."""

import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.cluster import BenchmarkError

RATE_HZ = 200
SHOWN = 30
LONGEST_S = 900


@dataclass
class Recording:
    """py-spy at work on one process."""

    process: "subprocess.Popen[bytes]"
    output: Path

    @classmethod
    def start(cls, pid: int, output: Path) -> "Recording":
        """Begins to record ``pid`` into ``output`` (collapsed stacks). Only what runs Python counts: threads that hold
        the interpreter's lock. gRPC's own threads, TLS among them, are for ``perf``.

        Raises:
            BenchmarkError: there is no py-spy.
        """
        binary = shutil.which("py-spy")
        if binary is None:
            raise BenchmarkError("py-spy is not in the PATH: install it (pip install py-spy) to profile")
        command = [binary, "record", "--format", "raw", "--rate", str(RATE_HZ), "--duration", str(LONGEST_S)]
        command += ["--pid", str(pid), "--output", str(output), "--gil"]
        return cls(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL), output)

    def finish(self) -> list[str]:
        """Ends the recording; lines for people: functions by their own and by their whole time."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait(60)
        return summary(self.output.read_text().splitlines())


def summary(stacks: Iterable[str]) -> list[str]:
    """The functions that take the most, of collapsed stacks (``a;b;c count``)."""
    own: Counter[str] = Counter()
    whole: Counter[str] = Counter()
    total = 0
    for line in stacks:
        frames, _, count_text = line.rpartition(" ")
        count, names = int(count_text), frames.split(";")
        total += count
        own[names[-1]] += count
        for name in set(names):
            whole[name] += count
    if not total:
        return ["nothing was recorded"]
    lines = [f"{total} samples of running Python", "own time:"]
    lines += [f"  {count / total:6.1%}  {name}" for name, count in own.most_common(SHOWN)]
    lines += ["with callees:"]
    return lines + [f"  {count / total:6.1%}  {name}" for name, count in whole.most_common(2 * SHOWN)]
