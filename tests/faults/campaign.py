"""The platform under faults while short tasks run: killed at crash points, at random and at once, hung, cut off.

Tasks keep coming, one in four of which fails by itself; every so often one fault is drawn. Afterwards everything
has to come to its end: as good as all healthy tasks completed, with exactly their own points visible, each that
fails by itself ended with its own class (`doomed.py`), and every promise of `invariants.py` kept. Seeded; goes on
where the state file says.

    python -m tests.faults.campaign --minutes 15 --every 20 --seed 1
"""

import argparse
import math
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.e2e.platform_up import FINAL
from tests.faults import doomed
from tests.faults.invariants import broken
from tests.faults.place import NotThere, Place, a_place
from tests.faults.processes import kill
from tests.faults.report import Report
from trainwright import crash

SCRIPT = """
import sys, time
import trainwright

base, steps = int(sys.argv[1]), int(sys.argv[2])
run = trainwright.init()
step = run.resume()
step += run.resumed is not None
while step < steps:
    run.log(step, {"value": base + step}, total_steps=steps)
    if step and step % 10 == 0:
        run.checkpoint(step, seen=step)
    step += 1
    time.sleep(0.05)
(run.output / "answer.txt").write_text(str(base))
"""
Fault = tuple[str, Callable[[], None]]
STEPS = 40
AT_ONCE = 6
FAILS_EVERY = 4
"""Of so many tasks one fails by itself."""
GOAL = 0.95
HEALED_SECONDS = 60.0
NUMBERS = (1, 2, 4)
"""Passings at which a point kills, each once until it is armed again."""
FASTER = {
    "SCHEDULER_LEASE": "4",
    "SCHEDULER_PROBE_EVERY": "0.5",
    "SCHEDULER_PROBE_LATE": "1",
    "TRAINWRIGHT_WORKER_HEARTBEAT_SECONDS": "0.5",
}
ARMED, OWN_CLASS = "turns of ", "failed by itself, and ended as its own class: "
UNREACHED = ("mongo.", "s3.", "apply.buried")
"""Points of engines that an embedded platform does not have, and of poison: `protocol_campaign.py` has them."""
NAMES = tuple(name for name in crash.POINTS if not name.startswith(UNREACHED))
AT_A_TIME = 6
"""Points that are armed at once."""


def words_of(name: str) -> list[str]:
    """Return what arms a point."""
    return [f"{name}:{number}:{crash.KILL}" for number in NUMBERS]


WORDS = tuple(word for name in NAMES for word in words_of(name))


def armed(notes: Path) -> dict[str, str]:
    """Return what a platform is started with, so that its crash points can be armed and disarmed."""
    notes.mkdir(parents=True, exist_ok=True)
    for word in WORDS:
        (notes / word).touch()
    return {**FASTER, crash.VARIABLE: " ".join(WORDS), crash.NOTES: str(notes)}


@dataclass(slots=True)
class Turns:
    """Gives each its turn: one of those that were drawn least, by lot."""

    names: Sequence[str]
    chance: random.Random
    drawn: Counter[str] = field(default_factory=Counter)

    def next(self) -> str:
        """Return whose turn it is."""
        least = min(self.drawn[name] for name in self.names)
        name = self.chance.choice([name for name in self.names if self.drawn[name] == least])
        self.drawn[name] += 1
        return name


@dataclass(slots=True)
class Campaign:
    """Tasks and faults on one platform; `drawn` says how often each crash point has had its turn before."""

    place: Place
    notes: Path
    chance: random.Random
    drawn: Counter[str] = field(default_factory=Counter)
    report: Report = field(default_factory=Report)
    bases: dict[str, int] = field(default_factory=dict)
    """What the values of each healthy task begin with."""
    failing: dict[str, str] = field(default_factory=dict)
    """The script of each task that fails by itself."""
    armed: list[str] = field(default_factory=list)
    points: Turns = field(init=False)
    scripts: Turns = field(init=False)

    def __post_init__(self) -> None:
        """Begin to take turns."""
        self.points = Turns(NAMES, self.chance, Counter(self.drawn))
        self.scripts = Turns(doomed.SCRIPTS, self.chance)

    def play(
        self, *, every: float, seconds: float = 0.0, faults: Sequence[Fault] = (), most_tasks: int = 10_000
    ) -> Report:
        """Keep tasks coming and have these faults, each once, or any for so long; then heal, and look."""
        to_come = iter(faults) if faults else self._faults()
        until_then, due = time.monotonic() + (math.inf if faults else seconds), time.monotonic() + every / 2
        while time.monotonic() < until_then:
            if len(self.bases) + len(self.failing) < most_tasks:
                self._submit_some()
            if time.monotonic() >= due:
                if (fault := next(to_come, None)) is None:
                    break
                self._have(*fault)
                due = time.monotonic() + every
            time.sleep(0.2)
        self.disarm()
        healed = time.monotonic()
        self._wait_for_all()
        self.report.longest("seconds until every task was over after the healing", time.monotonic() - healed)
        self._look()
        return self.report

    def arm(self, count: int) -> None:
        """Let some of the crash points kill whoever passes them next; each point in its turn."""
        for _ in range(count):
            name = self.points.next()
            for word in words_of(name):
                (self.notes / word).unlink(missing_ok=True)
                self.armed.append(word)

    def disarm(self) -> None:
        """Take back what has not killed anybody, and count what has; who was armed in vain has its turn again."""
        killed = Counter(word.partition(":")[0] for word in self.armed if (self.notes / word).exists())
        for name in dict.fromkeys(word.partition(":")[0] for word in self.armed):
            if not killed[name]:
                self.points.drawn[name] -= 1
                continue
            self.report.count(f"{ARMED}{name}")
            self.report.count(f"killed at {name}", killed[name])
            self.report.count("kills", killed[name])
        for word in self.armed:
            (self.notes / word).touch()
        self.armed = []

    def _faults(self) -> Iterator[Fault]:
        """Give faults for ever: crash points every other time, between them one of the others by lot."""
        others: list[Fault] = [
            ("everything killed", self.everything),
            ("a program killed", self._kill_one),
            ("a run killed", self._kill_run),
            ("broker hung", lambda: self._pause("kafka", 6)),
            ("control plane hung", lambda: self._pause("control-plane", 6)),
            ("a worker hung past its lease", self._zombie),
        ]
        while True:
            yield "crash points armed", self.crash_points
            yield self.chance.choice(others)

    def _have(self, what: str, fault: Callable[[], None]) -> None:
        with suppress(NotThere, OSError):  # just now; it is being started again
            fault()
            self.report.count(what)

    def crash_points(self) -> None:
        """Arm some, and begin every program anew, so that it passes them for the first time."""
        self.disarm()
        self.arm(AT_A_TIME)
        for name in self.place.names():
            if name == "control-plane" or name.startswith("worker"):
                with suppress(NotThere, ProcessLookupError):
                    os.kill(self.place.pid(name), signal.SIGKILL)
                    self.report.count("kills")

    def everything(self) -> None:
        """Kill all programs at once, half of the times the runs too, and start again.

        Crash points are taken back before: `up` gives up what dies again and again before it was ready.
        """
        self.disarm()
        runs_too = self.chance.random() < 0.5
        hit = kill(self.place.home, lambda process: runs_too or not process.is_run)
        self.report.count("kills", len(hit))
        self.place.up.up()

    def _kill_one(self) -> None:
        name = self.chance.choice(["kafka", "control-plane", "worker-1", "worker-2"])
        os.kill(self.place.pid(name), signal.SIGKILL)
        self.report.count("kills")

    def _kill_run(self) -> None:
        runs = self.place.runs()
        if runs:
            os.kill(self.chance.choice(runs).pid, signal.SIGKILL)
            self.report.count("kills")

    def _pause(self, name: str, seconds: float) -> None:
        with self.place.stopped(self.place.pid(name)):
            time.sleep(seconds)

    def _zombie(self) -> None:
        agent = self.place.pid(self.chance.choice(["worker-1", "worker-2"]))
        with self.place.stopped(agent, *(run.pid for run in self.place.runs() if self.chance.random() < 0.5)):
            time.sleep(7)

    def _submit_some(self) -> None:
        with suppress(httpx.HTTPError, OSError, ValueError), self.place.api() as api:
            living = api.get("/tasks", params={"status": "running", "limit": 1}).json()["total"]
            living += api.get("/tasks", params={"status": "pending", "limit": 1}).json()["total"]
            for _ in range(AT_ONCE - living):
                self._submit_one(api)

    def _submit_one(self, api: httpx.Client) -> None:
        count = len(self.bases) + len(self.failing)
        if count % FAILS_EVERY == FAILS_EVERY - 1:
            script = self.scripts.next()
            config = doomed.document(script, self.place.folder)
        else:
            script, base = "", count * 1000
            parameters = {"path": str(self._script()), "args": [str(base), str(STEPS)]}
            config = {"recipe": "script", "parameters": parameters, "resource_requirements": {"cpu": 0.25}}
        answer = api.post("/tasks", json={"config": config, "start": True}).raise_for_status()
        task_id = answer.json()["task_id"]
        if script:
            self.failing[task_id] = script
        else:
            self.bases[task_id] = base

    def _script(self) -> Path:
        path = self.place.folder / "short.py"
        if not path.exists():
            path.write_text(SCRIPT)
        return path

    def _wait_for_all(self) -> None:
        left, deadline = {*self.bases, *self.failing}, time.monotonic() + HEALED_SECONDS + 5 * AT_ONCE
        while left and time.monotonic() < deadline:
            left = {task_id for task_id in left if self._task(task_id)["status"] not in FINAL}
            time.sleep(0.3)
        self.report.wrong += [f"{task_id} did not end: {self._task(task_id)}" for task_id in left]

    def _task(self, task_id: str) -> dict[str, Any]:
        return self.place.get(f"/tasks/{task_id}")

    def _look(self) -> None:
        wrong = broken(self.place.home, [*self.bases, *self.failing], over=True)
        for task_id in (*self.bases, *self.failing):
            task, script = self._task(task_id), self.failing.get(task_id)
            own = doomed.expected(script) if script else None
            self.report.count("attempts", len(task["attempts"]))
            if error := doomed.wrong_ending(task, own):
                wrong.append(error)
            elif own is not None:
                self.report.count(f"{OWN_CLASS}{own}")
            elif task["status"] == "completed":
                self.report.count("healthy tasks completed")
                wrong += self._wrong_points(task_id, self.bases[task_id])
            else:
                self.report.count(f"healthy tasks given up after {task['attempts'][-1]['failure_class']}")
        self.report.count("healthy tasks", len(self.bases))
        self.report.count("tasks that fail by themselves", len(self.failing))
        if (completed := self.report.counts["healthy tasks completed"]) < GOAL * len(self.bases):
            wrong.append(f"{completed} of {len(self.bases)} healthy tasks completed")
        self.report.wrong += wrong

    def _wrong_points(self, task_id: str, base: int) -> list[str]:
        wanted = [[step, base + step] for step in range(STEPS)]
        points: list[Any] = []
        for _ in range(100):  # metrics travel on a topic of their own
            query = {"name": "value", "max_points": 10_000}
            points = self.place.get(f"/tasks/{task_id}/metrics", **query).get("points", [])
            if points == wanted:
                return []
            time.sleep(0.1)
        return [f"{task_id}: {len(points)} points instead of its own {STEPS}: {points[:3]} … {points[-3:]}"]


def armed_before(whole: Report) -> Counter[str]:
    """Return how often each crash point has had its turn in the rounds before."""
    return Counter({name: whole.counts[f"{ARMED}{name}"] for name in NAMES})


def campaign(state: Path, *, seed: int, minutes: float, every: float, round_minutes: float = 3.0) -> Report:
    """Play rounds, each on a platform of its own, going on where the state file says; return all found so far."""
    whole, until_then = Report.read(state), time.monotonic() + 60 * minutes
    while (left := until_then - time.monotonic()) > 0:
        chance = random.Random(f"{seed}/{whole.rounds}")
        with tempfile.TemporaryDirectory(prefix="trainwright-campaign-") as scratch:
            folder = Path(scratch)
            notes = folder / "notes"
            with a_place(folder, armed(notes)) as place:
                report = Campaign(place, notes, chance, armed_before(whole)).play(
                    seconds=min(left, 60 * round_minutes), every=every
                )
        report.wrong = [f"round {whole.rounds}: {line}" for line in report.wrong]
        whole.add(report)
        whole.write(state)
        sys.stderr.write(f"round {whole.rounds}: {report.counts['kills']} kills, wrong: {report.wrong}\n")
    return whole


def main() -> None:
    """Run the campaign from the command line; exit 1 if anything was wrong."""
    parser = argparse.ArgumentParser(description="Break the platform while tasks run.")
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--every", type=float, default=20, help="seconds between faults")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=Path("build/faults"))
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    state = options.folder / f"platform-{options.seed}.json"
    whole = campaign(state, seed=options.seed, minutes=options.minutes, every=options.every)
    sys.stdout.write(whole.table())
    sys.exit(1 if whole.wrong else 0)


if __name__ == "__main__":
    main()
