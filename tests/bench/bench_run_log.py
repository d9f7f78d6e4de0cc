"""What `run.log()` costs in a busy training loop: `python tests/bench/bench_run_log.py [calls]` prints
percentiles as JSON.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path

import trainwright
from trainwright.training.layout import RUN_DIR_VARIABLE


def busy(amount: int) -> float:
    """Burn about 10 µs, as a loop does between two calls."""
    total = 0.0
    for number in range(amount):
        total += number * 0.5
    return total


def measure(calls: int, directory: Path) -> dict[str, float]:
    """Return percentiles in µs of `calls` calls from a loop that never sleeps, and the throughput without
    pauses.
    """
    os.environ[RUN_DIR_VARIABLE] = str(directory)
    run = trainwright.init()
    clock = time.perf_counter_ns
    taken = []
    for step in range(calls):
        busy(150)
        metrics = {"loss": 0.5 / (step + 1), "accuracy": 0.25}
        start = clock()
        run.log(step, metrics, total_steps=calls)
        taken.append(clock() - start)
    start = clock()
    for step in range(calls):
        run.log(step, {"loss": 0.5})
    elapsed = (clock() - start) / 1e9
    run.finish()
    taken.sort()
    names = {"p50_us": 0.5, "p90_us": 0.9, "p99_us": 0.99, "p999_us": 0.999}
    figures = {name: taken[int(calls * share)] / 1000 for name, share in names.items()}
    return {**figures, "max_us": taken[-1] / 1000, "calls_per_s": round(calls / elapsed)}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        amount = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
        sys.stdout.write(json.dumps(measure(amount, Path(folder))) + "\n")
