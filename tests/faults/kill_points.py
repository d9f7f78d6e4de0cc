"""Kill a training at random moments, resume it, and ask whether it ended as the run that nobody touched.

Each chain starts a run as a worker does, ends it at up to three random moments (start-up, steps, writes of
checkpoints, the very end), and each time goes on in a new process, in a new folder, from the newest checkpoint
whose hashes match. Then everything it left must be equal byte for byte to what the untouched run left: weights,
scores, journal; and so must be its visible metric history: older attempts up to the step that was resumed from,
then the newer one.

    python -m tests.faults.kill_points --run plain --kills 100 --seed 1

Not here: what is trained (runs/), agents and services (campaign.py).
"""

import argparse
import random
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.attempts import Attempt, Record, damage, kept, newest_whole
from trainwright.training import layout

SALES = Path(__file__).parents[2] / "examples/data/walmart_sales_weekly.csv"

RUNS: dict[str, dict[str, Any]] = {
    "arrays": {"module": "tests.faults.runs.arrays"},
    "plain": {"module": "tests.faults.runs.plain"},
    "steps": {"module": "tests.faults.runs.steps"},
    "looped": {"module": "tests.faults.runs.looped"},
    "lora": {"module": "tests.faults.runs.lora"},
    "forecast": {
        "recipe": "forecast",
        "parameters": {
            "mode": "store",
            "max_steps": 60,
            "checkpoint_every": 5,
            "origins": 2,
            "channels": 16,
            "batch_size": 16,
            "micro_batch": 6,
        },
        "data": {
            "path": str(SALES),
            "time": "Date",
            "target": "Weekly_Sales",
            "product": "Dept",
            "store": "Store",
        },
    },
}
"""What can be killed: a module of runs/, or a recipe with its parameters and data."""

WAYS = {"kill": 6, "pause": 2, "move": 2, "corrupt": 2}
"""How a run is ended, and how often: SIGKILL to its group; a request that it answers; SIGKILL and nothing but the
copied checkpoints left; SIGKILL and the newest checkpoint damaged."""
MOMENTS = {"start": 2, "steps": 5, "write": 4, "end": 2}
MOST_ENDINGS = 3
TOGETHER = 2
"""Runs at a time."""


@dataclass(slots=True)
class Report:
    """What a campaign has seen."""

    run: str
    chains: int = 0
    attempts: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    points: int = 0
    good_points: int = 0
    seconds: float = 0.0

    def table(self) -> str:
        """Return it for people."""
        ways = ", ".join(f"{way} {self.counts[way]}" for way in WAYS)
        rows = [
            ("run", self.run),
            ("identical", f"{self.good_points} of {self.points} endings, in {self.chains} chains"),
            ("attempts", str(self.attempts)),
            ("ended by", ways),
            ("ended during a write", str(self.counts["in a write"])),
            ("ended while the end was written", str(self.counts["at the end"])),
            ("started anew, no checkpoint yet", str(self.counts["from the beginning"])),
            ("walked back to an older one", str(self.counts["walked back"])),
            ("seconds", f"{self.seconds:.0f}"),
            *(("WRONG", one) for one in self.wrong),
        ]
        return "\n".join(f"{name:34}{value}" for name, value in rows)


@dataclass(frozen=True, slots=True)
class Left:
    """What a run left: its files by hash, its summary, its visible history."""

    files: dict[str, str]
    summary: dict[str, Any]
    history: list[Record]

    def differences(self, other: "Left") -> list[str]:
        """Return what is not equal in the other."""
        names = sorted(self.files.keys() | other.files.keys())
        found = [f"the file {name}" for name in names if self.files.get(name) != other.files.get(name)]
        if self.summary != other.summary:
            found.append("the summary")
        if self.history != other.history:
            pairs = zip(self.history, other.history, strict=False)
            first = next((one for one, two in pairs if one != two), None)
            lengths = f"{len(other.history)} points instead of {len(self.history)}"
            found.append(f"the history ({lengths}, first different at {first[0] if first else 'the end'})")
        return found


@dataclass(frozen=True, slots=True)
class Pace:
    """What a run does untouched: seconds until its first point and for each step, bytes that it logs, steps."""

    start: float
    step: float
    logged: int
    steps: int


class Chain:
    """One run from start to completion, over several attempts."""

    def __init__(self, folder: Path, spec: dict[str, Any], chance: random.Random, planted: str) -> None:
        self.folder = folder
        self.counts: Counter[str] = Counter()
        self.endings = 0
        self.attempts = 0
        self._spec = spec
        self.chance = chance
        self._planted = planted
        self._store = folder / "store"
        self._history: list[Record] = []

    def run(self, endings: int, pace: Pace) -> Left:
        """Train to the end, with up to so many endings before.

        Raises:
            AssertionError: An attempt failed, or a pause lost a step.
        """
        while True:
            self.attempts += 1
            attempt = self._start()
            way = self._pick(WAYS) if self.endings < endings else ""
            if way:
                self._end(attempt, way, pace)
            completed = attempt.wait() and not attempt.stopped
            self._history = [point for point in self._history if point[0] <= attempt.step] + attempt.records()
            if completed:
                return Left(attempt.files(), attempt.summary(), self._history)
            self.endings += 1
            self._keep(attempt, way)

    def _start(self) -> Attempt:
        folder = self.folder / f"attempt-{self.attempts}"
        found = newest_whole(self._store)
        if self.attempts > 1:
            self.counts["from the beginning"] += found is None
            self.counts["walked back"] += found != next(iter(kept(self._store)), None)
        attempt = Attempt(folder, self.attempts, found)
        attempt.start(self._spec, self._planted)
        return attempt

    def _end(self, attempt: Attempt, way: str, pace: Pace) -> None:
        """Wait for a random moment and end the attempt, if it still lives."""
        moment = self._pick(MOMENTS)
        if moment == "start":
            attempt.wait(self.chance.uniform(0, pace.start))
        else:
            # By what it has logged and not by the clock: on a busy machine moments would lie behind its end.
            left = pace.logged * (1 - attempt.step / pace.steps)
            share = self.chance.random()
            attempt.until(lambda: attempt.logged() > share * left)
            attempt.wait(self.chance.uniform(0, pace.step))
        if moment == "write":
            attempt.until(attempt.is_writing)
        if moment == "end":
            attempt.until(attempt.is_at_the_end)
            attempt.wait(self.chance.uniform(0, 0.05))
        if way == "pause":
            layout.write_json(
                attempt.folder / layout.CONTROL,
                {"revision": 1, "stop": {"kind": "pause", "deadline": 60, "term": 10, "signal": "SIGTERM"}},
            )
            attempt.wait(60)
        attempt.kill()

    def _keep(self, attempt: Attempt, way: str) -> None:
        """Do what an agent does with a run that has ended, and what the way of its ending adds."""
        self.counts[way] += 1
        self.counts["in a write"] += attempt.is_writing()
        self.counts["at the end"] += attempt.is_at_the_end()
        attempt.copy_checkpoints(self._store)
        if way == "pause":
            assert attempt.stopped, f"attempt {attempt.number} was asked to pause and did not within 60 s"
            last = max((point[0] for point in self._history), default=attempt.step)
            newest = newest_whole(self._store)
            saved = newest.step if newest else 0
            assert saved == last, f"paused after step {last}, saved only {saved}"
        if way == "move":
            shutil.rmtree(attempt.folder)
        if way == "corrupt" and (found := newest_whole(self._store)) is not None:
            damage(found.folder, self.chance)

    def _pick(self, choices: dict[str, int]) -> str:
        return self.chance.choices(list(choices), list(choices.values()))[0]


def campaign(run: str, folder: Path, kills: int, seed: int, planted: str = "") -> Report:
    """End runs until so many endings were seen, and compare each with one that was left alone."""
    begun = time.monotonic()
    report = Report(run)
    spec = RUNS[run]
    with ThreadPoolExecutor(TOGETHER) as pool:
        folders = [folder / f"untouched-{number}" for number in range(2)]
        (reference, pace), (twin, _) = pool.map(_untouched, folders, [spec, spec])
    if found := reference.differences(twin):
        report.wrong.append(f"two runs that nobody touched differ in {', '.join(found)}")
    if any("nan" in values or "inf" in values for _, _, values in reference.history):
        report.wrong.append("the untouched run reaches values that are no numbers: everything ends the same there")
    if report.wrong:
        return report
    lock = threading.Lock()

    def work(place: int) -> None:
        number = place
        while report.points < kills and not (planted and report.wrong):
            chain = Chain(folder / f"chain-{number}", spec, random.Random(f"{seed}/{number}"), planted)
            wrong = _judged(chain, reference, pace)
            with lock:
                report.chains += 1
                report.attempts += chain.attempts
                report.counts += chain.counts
                report.points += chain.endings
                report.good_points += 0 if wrong else chain.endings
                report.wrong += [f"chain {number} of seed {seed}: {one}" for one in wrong]
            if not wrong:
                shutil.rmtree(chain.folder)
            number += TOGETHER

    with ThreadPoolExecutor(TOGETHER) as pool:
        list(pool.map(work, range(TOGETHER)))
    report.seconds = time.monotonic() - begun
    return report


def _judged(chain: Chain, reference: Left, pace: Pace) -> list[str]:
    """Run a chain and return what is wrong with how it ended."""
    try:
        left = chain.run(chain.chance.randint(1, MOST_ENDINGS), pace)
    except AssertionError as error:
        return [str(error)]
    return reference.differences(left)


def _untouched(folder: Path, spec: dict[str, Any]) -> tuple[Left, Pace]:
    attempt = Attempt(folder, 1, None)
    begun = time.monotonic()
    attempt.start(spec)
    attempt.until(lambda: attempt.logged() > 0)
    first = time.monotonic()
    attempt.wait()
    left = Left(attempt.files(), attempt.summary(), attempt.records())
    steps = max((step for step, _, _ in left.history), default=1)
    return left, Pace(first - begun, (time.monotonic() - first) / steps, attempt.logged(), steps)


def main() -> int:
    """Run the campaign that the command line describes; 1 when an ending changed anything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", choices=sorted(RUNS), default="plain")
    parser.add_argument("--kills", type=int, default=100, help="endings to see, of all ways together")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--planted", default="", help="what a run of runs/ forgets on purpose: see small.py")
    parser.add_argument("--folder", type=Path, help="where the runs go; what went wrong stays there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kill-points-") as temporary:
        folder = options.folder or Path(temporary)
        report = campaign(options.run, folder, options.kills, options.seed, options.planted)
    sys.stdout.write(report.table() + "\n")
    return 1 if report.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
