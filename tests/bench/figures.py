"""What the benches of the bus share: a broker, percentiles, lines of figures, a process's CPU."""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from trainwright.embedded.archive import free_ports
from trainwright.embedded.kafka import KafkaProcess


@contextmanager
def bench() -> Iterator[tuple[KafkaProcess, Path]]:
    """Give a broker and a folder of their own."""
    with tempfile.TemporaryDirectory(prefix="trainwright-bench-") as folder:
        port, controller_port = free_ports(2)
        with KafkaProcess(Path(folder) / "kafka", port=port, controller_port=controller_port) as broker:
            yield broker, Path(folder)


def say(what: str, figure: str, goal: str = "") -> None:
    """Print one figure."""
    sys.stdout.write(f"{what:<58} {figure}{f'   (goal: {goal})' if goal else ''}\n")
    sys.stdout.flush()


def rate(what: str, count: int, seconds: float, goal: str = "") -> None:
    """Print a rate."""
    say(what, f"{count / seconds:>9,.0f} /s", goal)


def spread(waits: Sequence[float]) -> str:
    """Return median, 99th percentile and maximum, in milliseconds."""
    ranked = sorted(waits)
    p99 = ranked[min(len(ranked) - 1, int(len(ranked) * 0.99))]
    return f"p50 {1e3 * statistics.median(ranked):.1f} ms, p99 {1e3 * p99:.1f} ms, max {1e3 * ranked[-1]:.1f} ms"


def cpu_of(pid: int) -> float:
    """Return the CPU seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def share(pids: Sequence[int], seconds: float) -> list[float]:
    """Return how many percent of a core processes use over some seconds."""
    before = [cpu_of(pid) for pid in pids]
    started = time.monotonic()
    time.sleep(seconds)
    took = time.monotonic() - started
    return [100 * (cpu_of(pid) - used) / took for pid, used in zip(pids, before, strict=True)]
