"""The platform's own figures, on a home of its own: ready, memory, idle CPU, accept, submit to first line.

    python -m tests.bench.bench_platform

Floors in the same run: the bare start of a Python process, and an fsync of the same disk.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from tests.e2e.platform_up import FINAL, Platform, platform, script, submit
from tests.faults.processes import processes_of

FIRST_LINE = """
import sys, time
with open(sys.argv[1], "w") as file:
    file.write(repr(time.time()))
"""


def main() -> None:
    """Measure, and print a line per figure."""
    with tempfile.TemporaryDirectory(prefix="trainwright-bench-") as scratch:
        home = Path(scratch) / "home"
        with platform(home) as up:
            up.down()
            begun = time.monotonic()
            up.up()
            say("up, second start, ready", f"{time.monotonic() - begun:.1f} s", "floor: ≤ 10 s")
            with up.client() as api:
                time.sleep(30)  # a JVM that has just started is still compiling
                _memory(home)
                _idle_cpu(home)
                _floors(Path(scratch))
                _accept(api, Path(scratch))
                _first_line(up, api, Path(scratch))


def _memory(home: Path) -> None:
    for name, pids in _roles(home).items():
        pss = sum(_pss(pid) for pid in pids)
        say(
            f"PSS {name}",
            f"{pss / 1024:.0f} MiB",
            "floor: control plane ≤ 250 MiB" if name == "control plane" else "",
        )


def _idle_cpu(home: Path, seconds: float = 20) -> None:
    roles = _roles(home)
    before = {name: sum(_cpu(pid) for pid in pids) for name, pids in roles.items()}
    time.sleep(seconds)
    shares = {
        name: 100 * (sum(_cpu(pid) for pid in pids) - before[name]) / seconds for name, pids in roles.items()
    }
    both = shares["control plane"] + shares["kafka"]
    say("idle CPU", ", ".join(f"{name} {share:.1f} %" for name, share in shares.items()))
    say("idle CPU of control plane and broker", f"{both:.1f} % of a core", "floor: ≤ 5 %")


def _floors(scratch: Path) -> None:
    def start_python() -> None:
        subprocess.run([sys.executable, "-I", "-S", "-c", ""], check=True)

    def sync() -> None:
        with (scratch / "sync").open("ab") as file:
            file.write(b"x" * 512)
            file.flush()
            os.fsync(file.fileno())

    say("peer: a bare python process", times(start_python, 20))
    say("peer: append and fsync", times(sync, 200))


def _accept(api: httpx.Client, scratch: Path, count: int = 300) -> None:
    config = script(scratch / "noop.py", "")

    def post() -> None:
        answer = api.post("/tasks", json={"config": config})
        assert answer.status_code == 201, answer.text

    post()
    say(f"POST /tasks, {count} times", times(post, count), "floor: p99 ≤ 100 ms")


def _first_line(up: Platform, api: httpx.Client, scratch: Path, count: int = 20) -> None:
    waits = []
    for number in range(count):
        mark = scratch / f"first-{number}"
        begun = time.time()
        task_id = submit(api, script(scratch / "first.py", FIRST_LINE, str(mark)))
        while api.get(f"/tasks/{task_id}").json()["status"] not in FINAL:
            time.sleep(0.01)
        waits.append(float(mark.read_text()) - begun)
    say(f"submit to a script's first line, {count} times", spread(waits), "floor: ≤ 1 s")


def _roles(home: Path) -> dict[str, list[int]]:
    roles: dict[str, list[int]] = {"control plane": [], "kafka": [], "agents": [], "supervisor": []}
    for process in processes_of(home):
        if "kafka.Kafka" in process.command:
            roles["kafka"].append(process.pid)
        elif "trainer_worker" in process.command:
            roles["agents"].append(process.pid)
        elif "-m services" in process.command:
            roles["control plane"].append(process.pid)
        else:
            roles["supervisor"].append(process.pid)
    return roles


def _pss(pid: int) -> int:
    """Return a process's proportional share of memory, in KiB."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def times(do: Callable[[], None], count: int) -> str:
    """Time something; return the spread in words."""
    waits = []
    for _ in range(count):
        begun = time.perf_counter()
        do()
        waits.append(time.perf_counter() - begun)
    return spread(waits)


def spread(waits: list[float]) -> str:
    """Return median, 99th percentile and maximum, in milliseconds."""
    ranked = sorted(waits)
    p99 = ranked[min(len(ranked) - 1, int(len(ranked) * 0.99))]
    return f"p50 {1e3 * statistics.median(ranked):.2f} ms, p99 {1e3 * p99:.2f} ms, max {1e3 * ranked[-1]:.2f} ms"


def say(what: str, figure: str, floor: str = "") -> None:
    """Print one figure."""
    sys.stdout.write(f"{what:<50} {figure}{f'   ({floor})' if floor else ''}\n")


if __name__ == "__main__":
    main()
