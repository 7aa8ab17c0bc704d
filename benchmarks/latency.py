"""How long ``get pod NAME`` takes, from a client of its own in a process of its own, until its input ends.

``python -m benchmarks.latency --endpoint HOST:PORT --cert-dir DIR --pod NAME`` prints JSON: ``calls``, ``p50_ms``,
``p99_ms``, ``max_ms`` and ``slowest`` (seconds since the start, ms). It makes the call that ``milpactl get pod NAME``
makes; the command's own start is not in it.
"""

import argparse
import json
import select
import sys
import time
from pathlib import Path

from benchmarks.accounting import percentile
from milpa_ray.client import Client

INTERVAL_S = 0.05


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.latency", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--endpoint", required=True)
    parser.add_argument("--cert-dir", type=Path, required=True)
    parser.add_argument("--pod", required=True)
    options = parser.parse_args()
    took: list[tuple[float, float]] = []
    started = time.perf_counter()
    with Client([options.endpoint], cert_dir=options.cert_dir) as client:
        client.get("Pod", options.pod)  # connects
        print("ready", flush=True)
        while not select.select([sys.stdin], [], [], INTERVAL_S)[0]:
            began = time.perf_counter()
            client.get("Pod", options.pod)
            took.append((time.perf_counter() - began, began - started))
    spans_ms = [seconds * 1000 for seconds, _ in took] or [0.0]
    found = {"p50_ms": percentile(spans_ms, 0.5), "p99_ms": percentile(spans_ms, 0.99), "max_ms": max(spans_ms)}
    slowest = [(round(at, 1), round(seconds * 1000)) for seconds, at in sorted(took, reverse=True)[:5]]
    rounded = {name: round(value, 1) for name, value in found.items()}
    print(json.dumps({"calls": len(took), **rounded, "slowest": slowest}))


if __name__ == "__main__":
    main()
