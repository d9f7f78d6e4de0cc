"""The platform under faults while short tasks run: killed at crash points, at random and at once, hung, cut off.

Tasks keep coming; every so often one fault is drawn. Afterwards everything has to come to its end: every task
final, as good as all completed and the rest with the class of its failure, exactly its own points visible, and
every promise of `invariants.py` kept. Seeded; goes on where the state file says.

    python -m tests.faults.campaign --minutes 15 --every 20 --seed 1
"""

import argparse
import itertools
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.e2e.platform_up import FINAL
from tests.faults.invariants import broken
from tests.faults.place import Place, a_place
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
UNREACHED = ("mongo.", "s3.")
"""Points of engines that an embedded platform does not have."""
WORDS = tuple(f"{name}:{n}:kill" for name in crash.POINTS if not name.startswith(UNREACHED) for n in NUMBERS)


def armed(notes: Path) -> dict[str, str]:
    """Return what a platform is started with, so that its crash points can be armed and disarmed."""
    notes.mkdir(parents=True, exist_ok=True)
    for word in WORDS:
        (notes / word).touch()
    return {**FASTER, crash.VARIABLE: " ".join(WORDS), crash.NOTES: str(notes)}


@dataclass(slots=True)
class Campaign:
    """Tasks and faults on one platform."""

    place: Place
    notes: Path
    chance: random.Random
    report: Report = field(default_factory=Report)
    bases: dict[str, int] = field(default_factory=dict)
    to_arm: list[str] = field(default_factory=list)
    armed: list[str] = field(default_factory=list)

    def play(
        self, *, seconds: float, every: float, faults: Sequence[Fault] = (), most_tasks: int = 10_000
    ) -> Report:
        """Keep tasks coming and faults happening for so long, heal, and look; faults in turn, else at random."""
        in_turn = itertools.cycle(faults)
        until_then, due = time.monotonic() + seconds, time.monotonic() + every / 2
        while time.monotonic() < until_then:
            if len(self.bases) < most_tasks:
                self._submit_some()
            if time.monotonic() >= due:
                self._have(*(next(in_turn) if faults else self.chance.choice(self._faults())))
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
            if not self.to_arm:
                self.to_arm = sorted({word.partition(":")[0] for word in WORDS})
                self.chance.shuffle(self.to_arm)
            name = self.to_arm.pop()
            for word in (f"{name}:{number}:{crash.KILL}" for number in NUMBERS):
                (self.notes / word).unlink(missing_ok=True)
                self.armed.append(word)

    def disarm(self) -> None:
        """Take back what has not killed anybody, and count what has."""
        for word in self.armed:
            if (self.notes / word).exists():
                self.report.count(f"killed at {word.partition(':')[0]}")
                self.report.count("kills")
            (self.notes / word).touch()
        self.armed = []

    def _faults(self) -> list[Fault]:
        return [
            ("crash points armed", self.crash_points),
            ("crash points armed", self.crash_points),
            ("everything killed", self.everything),
            ("a program killed", self._kill_one),
            ("a run killed", self._kill_run),
            ("broker hung", lambda: self._pause("kafka", 6)),
            ("control plane hung", lambda: self._pause("control-plane", 6)),
            ("a worker hung past its lease", self._zombie),
        ]

    def _have(self, what: str, fault: Callable[[], None]) -> None:
        with suppress(AssertionError, OSError):  # it is not there just now: it is being started again
            fault()
            self.report.count(what)

    def crash_points(self) -> None:
        """Arm some, and begin every program anew, so that it passes them for the first time."""
        self.disarm()
        self.arm(6)
        for name in self.place.names():
            if name == "control-plane" or name.startswith("worker"):
                with suppress(AssertionError, ProcessLookupError):
                    os.kill(self.place.pid(name), signal.SIGKILL)
                    self.report.count("kills")

    def everything(self) -> None:
        """Kill all programs at once, half of the times the runs too, and start again."""
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
                base = len(self.bases) * 1000
                parameters = {"path": str(self._script()), "args": [str(base), str(STEPS)]}
                config = {"recipe": "script", "parameters": parameters, "resource_requirements": {"cpu": 0.25}}
                answer = api.post("/tasks", json={"config": config, "start": True}).raise_for_status()
                self.bases[answer.json()["task_id"]] = base

    def _script(self) -> Path:
        path = self.place.folder / "short.py"
        if not path.exists():
            path.write_text(SCRIPT)
        return path

    def _wait_for_all(self) -> None:
        left, deadline = set(self.bases), time.monotonic() + HEALED_SECONDS + 5 * AT_ONCE
        while left and time.monotonic() < deadline:
            left = {task_id for task_id in left if self._task(task_id)["status"] not in FINAL}
            time.sleep(0.3)
        self.report.wrong += [f"{task_id} did not end: {self._task(task_id)}" for task_id in left]

    def _task(self, task_id: str) -> dict[str, Any]:
        return self.place.get(f"/tasks/{task_id}")

    def _look(self) -> None:
        wrong, completed = broken(self.place.home, self.bases, over=True), 0
        for task_id, base in self.bases.items():
            task = self._task(task_id)
            self.report.count("attempts", len(task["attempts"]))
            if task["status"] == "completed":
                completed += 1
                wrong += self._wrong_points(task_id, base)
            elif task["status"] == "failed" and not task["attempts"][-1]["failure_class"]:
                wrong.append(f"{task_id} failed without a class: {task['reason']}")
        self.report.count("tasks", len(self.bases))
        self.report.count("tasks completed", completed)
        if completed < GOAL * len(self.bases):
            wrong.append(f"{completed} of {len(self.bases)} tasks completed")
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


def campaign(state: Path, *, seed: int, minutes: float, every: float, round_minutes: float = 3.0) -> Report:
    """Play rounds, each on a platform of its own, going on where the state file says; return all found so far."""
    whole, until_then = Report.read(state), time.monotonic() + 60 * minutes
    while (left := until_then - time.monotonic()) > 0:
        chance = random.Random(f"{seed}/{whole.rounds}")
        with tempfile.TemporaryDirectory(prefix="trainwright-campaign-") as scratch:
            folder = Path(scratch)
            notes = folder / "notes"
            with a_place(folder, armed(notes)) as place:
                report = Campaign(place, notes, chance).play(seconds=min(left, 60 * round_minutes), every=every)
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
