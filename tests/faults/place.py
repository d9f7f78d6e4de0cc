"""A platform under test, its processes by what they do, and one run on it that notes every step it took.

Not here: what is done to them (`outages.py`). Linux only: it reads /proc.
"""

import json
import os
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx

from tests.e2e.platform_up import FINAL, Platform, platform, script, submit
from tests.faults.processes import Found, kill, processes_of
from tests.patience import patient
from trainwright.embedded.process import started

STEPS = """
import os, pathlib, sys, time
import trainwright

stop, pause, every = pathlib.Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
run = trainwright.init()
attempt = int(os.environ["TRAINWRIGHT_RUN_ID"].rpartition("/")[2])
step = run.resume() if every else 0
step += run.resumed is not None
with stop.with_suffix(".firsts").open("a") as file:
    file.write(f"{time.time()}\\n")
while not stop.exists() and not (every and run.should_stop()):
    run.log(step, {"value": step, "attempt": attempt})
    if every and step and step % every == 0:
        run.checkpoint(step, seen=step)
    step += 1
    time.sleep(pause)
if not stop.exists():
    run.checkpoint(step - 1, seen=step - 1)
else:
    stop.with_suffix(".steps").write_text(str(step))
"""


class NotThere(AssertionError):
    """A program does not run at the moment."""


@dataclass(slots=True)
class Place:
    """A platform, and its processes."""

    folder: Path
    up: Platform

    @property
    def home(self) -> Path:
        """Return its home."""
        return self.up.home

    def api(self) -> httpx.Client:
        """Return a client of the public API."""
        return self.up.client()

    def get(self, path: str, **query: Any) -> dict[str, Any]:
        """Ask until there is an answer: parts of the platform may just be coming back."""
        deadline = patient(60)
        while True:
            try:
                with self.api() as api:
                    answer = api.get(path, params=query)
                answer.raise_for_status()
                return dict(answer.json())
            except (httpx.HTTPError, OSError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    def cpus(self) -> float:
        """Return what one worker offers."""
        return float(self.get("/workers")["workers"][0]["cpus"])

    def pid(self, name: str) -> int:
        """Return the process of a program of the supervisor's table."""
        for entry in self._state()["processes"]:
            if entry["name"] == name and entry["pid"]:
                return int(entry["pid"])
        raise NotThere(f"{name} does not run")

    def is_back(self, name: str, former: int) -> bool:
        """Return whether a program runs that is not its former process."""
        return name in self.names() and self.pid(name) != former

    def names(self) -> list[str]:
        """Return the programs that run."""
        return [str(entry["name"]) for entry in self._state()["processes"] if entry["pid"]]

    def deaths(self, name: str) -> int:
        """Return how often a program has ended."""
        return sum(int(entry["deaths"]) for entry in self._state()["processes"] if entry["name"] == name)

    @contextmanager
    def stopped(self, *pids: int) -> Iterator[None]:
        """Keep processes stopped (SIGSTOP) during the block."""
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    @contextmanager
    def unattended(self) -> Iterator[None]:
        """Keep the supervisor from starting anything again during the block."""
        with self.stopped(int(self._state()["supervisor"])):
            yield

    def is_quiet(self, figure: Callable[[], int]) -> bool:
        """Return whether a figure has stopped growing, for two seconds."""
        before = figure()
        time.sleep(2)
        return figure() == before

    def runs(self) -> list[Found]:
        """Return the processes of runs that live."""
        return [process for process in processes_of(self.home) if process.is_run]

    def _state(self) -> dict[str, Any]:
        return dict(json.loads((self.home / "state.json").read_text()))


@dataclass(slots=True)
class Watched:
    """One run, and what is known of it from outside of the platform."""

    place: Place
    task_id: str
    stop: Path
    first: Path = field(init=False)
    """The folder of its first attempt."""
    child: int = field(init=False)
    mark: str | None = field(init=False)

    def begin(self) -> None:
        """Wait until it runs."""
        self.first = until(self._folder, 60, f"{self.task_id} to have started")
        self.child = int(self.shim()["child_pid"])
        self.mark = started(self.child)
        until(lambda: self.logged() >= 20, 60, "its first points")

    def shim(self) -> dict[str, Any]:
        """Return what the shim of its first attempt wrote about itself."""
        return dict(json.loads((self.first / "shim.json").read_text()))

    @property
    def worker(self) -> str:
        """Return the program that runs its first attempt."""
        return f"worker-{self.first.parents[1].name}"

    def is_unharmed(self) -> bool:
        """Return whether the process that the first attempt began with still runs."""
        return self.mark is not None and started(self.child) == self.mark

    def show(self) -> dict[str, Any]:
        """Return the task as the platform shows it."""
        return self.place.get(f"/tasks/{self.task_id}")

    def logged(self) -> int:
        """Return how far its visible points reach."""
        points = self.points()
        return int(points[-1][0]) + 1 if points else 0

    def points(self, name: str = "value") -> list[list[float]]:
        """Return its visible points."""
        with suppress(httpx.HTTPStatusError):
            answer = self.place.get(f"/tasks/{self.task_id}/metrics")
            if name in answer["names"]:
                query = {"name": name, "max_points": 100_000}
                return list(self.place.get(f"/tasks/{self.task_id}/metrics", **query)["points"])
        return []

    def counted(self, attempt: int) -> int:
        """Return how many points the monitor keeps of one attempt, shown or not."""
        query = (
            "SELECT count(*) FROM series_points JOIN series ON series.id = series_points.series "
            "WHERE task_id = ? AND attempt = ? AND name = 'value'"
        )
        with sqlite3.connect(self.place.home / "services" / "monitor.db") as database:
            return int(database.execute(query, (self.task_id, attempt)).fetchone()[0])

    def firsts(self) -> list[float]:
        """Return when each of its attempts took its first step."""
        return [float(line) for line in self.stop.with_suffix(".firsts").read_text().split()]

    def finish(self) -> int:
        """Let it end by itself; return how many steps it took."""
        self.stop.touch()
        until(lambda: self.show()["status"] in FINAL, 90, f"{self.task_id} to end")
        count = self.stop.with_suffix(".steps")
        return int(count.read_text()) if count.exists() else 0

    def _folder(self) -> Path | None:
        found = sorted(self.place.home.glob(f"workers/*/attempts/{self.task_id}.1/shim.json"))
        return found[0].parent if found else None


def watch(
    place: Place, name: str, *, every: int = 0, pause: float = 0.05, queued: bool = False, **config: Any
) -> Watched:
    """Start a run that logs a point per ``pause`` until it may finish, and wait for it unless it is ``queued``.

    With ``every`` it saves a checkpoint as often, and goes on from the last one.
    """
    stop = place.folder / f"{name}.stop"
    document = script(place.folder / f"{name}.py", STEPS, str(stop), str(pause), str(every))
    with place.api() as api:
        task_id = submit(api, {**document, "resource_requirements": {"cpu": 0.25}, **config})
    run = Watched(place, task_id, stop)
    if not queued:
        run.begin()
    return run


@contextmanager
def a_place(
    folder: Path, env: Mapping[str, str] = MappingProxyType({}), *, separate: bool = False
) -> Iterator[Place]:
    """Have a platform of two workers until the end of the block; nothing lives on, whatever was done to it."""
    home = folder / "home"
    try:
        with platform(home, separate=separate, workers=2, **env) as up:
            yield Place(folder, up)
    finally:
        kill(home, lambda _: True)


def until(check: Callable[[], Any], within: float, what: str) -> Any:
    """Wait until a check gives something true, and return that.

    Raises:
        AssertionError: It did not in time.
    """
    deadline = patient(within)
    while True:
        if found := check():
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {within:.0f} s for {what}")
        time.sleep(0.1)
