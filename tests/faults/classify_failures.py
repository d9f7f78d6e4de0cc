"""Let real processes fail in every known way: each must be taken for what it is, and no healthy one be touched.

`python -m tests.faults.classify_failures [--short] [--only NAME …]`. Every script runs under the worker's own
shim, is watched by the library's `Health` with a tiny loop in the agent's place, and is judged as the agent
judges it. Prints the confusion matrix; exits 1 when fewer than 95 % are right or a healthy run was touched.
"""

import argparse
import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil

from services.trainer_worker import spawn
from services.trainer_worker.domain import Attempt, Stop
from services.trainer_worker.verdict import Asked, ending_of, judge
from services.trainer_worker.watching import request
from tests.faults.failures import table
from trainwright.contracts.attempt import Outcome
from trainwright.contracts.failure import Failure, FailureClass
from trainwright.contracts.resource import Slots
from trainwright.contracts.task_config import TaskConfig, Watch
from trainwright.training import layout
from trainwright.training.spool import SpoolReader
from trainwright.training.watch import Health

POLL_SECONDS = 0.05
LONGEST_SECONDS = 120
GOAL = 0.95
CGROUP_BYTES = 400 * 1024 * 1024
HEALTHY = "(healthy)"


@dataclass(frozen=True, slots=True)
class Result:
    """How one script was judged; `skipped` says why it could not run here."""

    name: str
    failure: Failure | None = None
    touched: bool = False
    skipped: str | None = None
    seconds: float = 0.0

    @property
    def expected(self) -> str:
        """Return the class it should get."""
        return table.expected(self.name) or HEALTHY

    @property
    def got(self) -> str:
        """Return the class it got."""
        return self.failure.failure_class.value if self.failure else HEALTHY

    @property
    def wrong(self) -> str | None:
        """Return what is wrong with the class, the place or the hint, or None."""
        if self.skipped:
            return None
        if self.got != self.expected or (self.touched and self.expected == HEALTHY):
            return f"{self.name}: {self.got} instead of {self.expected} – {self.failure}"
        line = table.failing_line(self.name)
        if self.failure is None or line is None:
            return None
        if self.failure.failure_class is FailureClass.HUNG:
            shown = f'train.py", line {line} in ' in (self.failure.traceback or "")
            return None if shown else f"{self.name}: line {line} is not in the stacks {self.failure.traceback}"
        if (self.failure.file, self.failure.line) != ("train.py", line):
            return f"{self.name}: {self.failure.file}:{self.failure.line} instead of train.py:{line}"
        if not (self.failure.hint and self.failure.traceback):
            return f"{self.name}: no hint, or no traceback"
        return None


class Skip(Exception):
    """A script needs what this machine does not have."""


def run(name: str, folder: Path) -> Result:
    """Run one script to its end."""
    begun = time.monotonic()
    directory = folder / name
    work = spawn.prepare_folder(directory)
    shutil.copy(table.SCRIPTS / f"{name}.script", work / "train.py")
    lock_path = folder / "agent.lock"
    try:
        with _agent_lock(lock_path), _surroundings(table.needs(name), work):
            failure, touched = _watched(name, directory, work, lock_path)
    except Skip as reason:
        return Result(name, skipped=str(reason))
    finally:
        spawn.kill_leftovers(directory)
    return Result(name, failure, touched, seconds=time.monotonic() - begun)


def _watched(name: str, directory: Path, work: Path, lock: Path) -> tuple[Failure | None, bool]:
    """Return the failure that a worker would report, and whether the run was ended by the watcher."""
    needs = table.needs(name)
    config = TaskConfig(
        recipe="script",
        parameters={"path": "train.py"},
        watch=Watch(hang_after=needs.hang_after),
        timeout=needs.timeout,
    )
    attempt = Attempt(
        task_id=f"task-{name}",
        attempt=1,
        incarnation="campaign",
        name=name,
        config=config,
        slots=Slots(cpu=1),
        received_at=datetime.now(UTC),
    )
    spawn.write_spec(directory, attempt, lock, orphan_seconds=30)
    shim = spawn.start_shim(directory, attempt)
    try:
        stop = _watch(config, directory, work, shim)
    finally:
        if shim.poll() is None:
            shim.terminate()
            shim.wait(20)
    exit_file = layout.read_json(directory / layout.EXIT) or {}
    ending = ending_of(exit_file, spawn.read_tail(directory / layout.STDERR), str(work))
    asked = Asked(heard=bool(exit_file.get("stop")), signalled=bool(exit_file.get("signalled")))
    verdict = judge(ending, stop, asked)
    assert (verdict.outcome is Outcome.COMPLETED) == (verdict.failure is None)
    return verdict.failure, stop is not None


def _watch(config: TaskConfig, directory: Path, work: Path, shim: "subprocess.Popen[bytes]") -> Stop | None:
    """Do what the agent does while a run lives: read its spool, ask the watcher, stop what is in trouble."""
    health = Health(config.watch, config.timeout)
    reader = SpoolReader(directory / layout.SPOOL)
    outside = table.needs(directory.name).outside
    until = time.monotonic() + LONGEST_SECONDS
    stop: Stop | None = None
    try:
        while shim.poll() is None:
            assert time.monotonic() < until, f"{directory.name} did not end"
            while records := reader.read():
                health.seen(records, time.monotonic())
            if outside and (work / "ready").exists():
                os.kill(
                    int((layout.read_json(directory / layout.SHIM) or {})["child_pid"]), signal.Signals[outside]
                )
                outside = None
            trouble = health.trouble(time.monotonic(), _cpu_seconds(shim.pid)) if stop is None else None
            if trouble is not None:
                stop = request(trouble).model_copy(update={"grace_seconds": 0, "term_seconds": 2})
                spawn.write_control(directory, stop)
            time.sleep(POLL_SECONDS)
    finally:
        reader.close()
    return stop


def _cpu_seconds(shim: int) -> float:
    used = 0.0
    with contextlib.suppress(psutil.Error):
        for process in psutil.Process(shim).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                used += times.user + times.system
    return used


@contextlib.contextmanager
def _agent_lock(path: Path) -> Iterator[None]:
    """Hold the lock that tells shims that their agent lives; several holders in one process share the file."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(lock)


@contextlib.contextmanager
def _surroundings(needs: table.Needs, work: Path) -> Iterator[None]:
    """Make the small memory group or the small disk that a script needs."""
    with contextlib.ExitStack() as stack:
        if needs.cgroup:
            (work / "cgroup").write_text(str(stack.enter_context(_memory_group())))
        if needs.mount:
            stack.enter_context(_small_disk(work / needs.mount, read_only=needs.mount == "readonly"))
        yield


@contextlib.contextmanager
def _memory_group() -> Iterator[Path]:
    """Make a group of processes that may use little memory; version 1 or 2 of the kernel's interface."""
    first = Path("/sys/fs/cgroup/memory")
    root, limit = (first, "memory.limit_in_bytes") if first.is_dir() else (Path("/sys/fs/cgroup"), "memory.max")
    group = root / f"trainwright-faults-{os.getpid()}-{time.monotonic_ns()}"
    try:
        group.mkdir()
        (group / limit).write_text(str(CGROUP_BYTES))
    except OSError as error:
        with contextlib.suppress(OSError):
            group.rmdir()
        raise Skip(f"no memory group can be made here: {error}") from None
    try:
        yield group
    finally:
        for _ in range(100):  # the kernel lets a group go once its last process has been collected
            with contextlib.suppress(OSError):
                group.rmdir()
            if not group.exists():
                break
            time.sleep(0.05)


@contextlib.contextmanager
def _small_disk(place: Path, *, read_only: bool) -> Iterator[None]:
    """Mount a disk of 1 MB, where that is allowed; scripts that need it full know another way."""
    place.mkdir()
    options = "size=1m" + (",ro" if read_only else "")
    command = ["mount", "-t", "tmpfs", "-o", options, "trainwright-faults", str(place)]
    mounted = shutil.which("mount") is not None and subprocess.run(command, capture_output=True).returncode == 0
    if read_only and not mounted:
        raise Skip("nothing can be mounted here")
    try:
        yield
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(place)], capture_output=True, check=False)


def campaign(folder: Path, names: Sequence[str], at_once: int = 2) -> list[Result]:
    """Run the scripts named."""
    with ThreadPoolExecutor(at_once) as pool:
        return list(pool.map(lambda name: run(name, folder), names))


def matrix(results: Sequence[Result]) -> str:
    """Return the confusion matrix as text: a row for what is true, a column for what was said."""
    counts = Counter((result.expected, result.got) for result in results if not result.skipped)
    classes = [*(value.value for value in table.EXPECTED.values() if value), HEALTHY]
    width = max(map(len, classes)) + 1
    lines = [" " * width + "".join(f"{name[:11]:>12}" for name in classes)]
    for row in classes:
        cells = "".join(f"{counts[row, column] or '·':>12}" for column in classes)
        lines.append(f"{row:<{width}}{cells}")
    return "\n".join(lines)


def main() -> int:
    """Run the campaign, print its result, return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--only", nargs="+", choices=table.names(), metavar="NAME")
    options = parser.parse_args()
    write = sys.stdout.write
    with tempfile.TemporaryDirectory(prefix="trainwright-faults-") as folder:
        results = campaign(Path(folder), options.only or table.names(options.short))
    done = [result for result in results if not result.skipped]
    failures = [result for result in done if result.expected != HEALTHY]
    right = [result for result in failures if result.got == result.expected]
    touched = [result for result in done if result.expected == HEALTHY and (result.touched or result.failure)]
    write(matrix(results) + "\n\n")
    for result in results:
        if result.skipped:
            write(f"skipped: {result.name}: {result.skipped}\n")
        elif result.wrong:
            write(f"wrong: {result.wrong}\n")
    write(
        f"watch.hang_after {table.HANG_AFTER:g} s stands for 60 s; pauses of the scripts are to that scale\n"
        f"classes: {len(right)} of {len(failures)} right; healthy runs touched: {len(touched)} of "
        f"{len(done) - len(failures)}; class, place and hint: {sum(not r.wrong for r in done)} of {len(done)}; "
        f"{sum(result.seconds for result in results):.0f} s of runs\n"
    )
    return 0 if len(right) >= GOAL * len(failures) and not touched else 1


if __name__ == "__main__":
    sys.exit(main())
