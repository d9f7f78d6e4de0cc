"""Kill everything, again and again, while short tasks run; then ask whether anything was lost or doubled.

Supervisor, Kafka, control plane and agents die together by SIGKILL at random moments, every second time the
shims and the training processes too; the next `trainwright up` follows at once. At the end every task must have
ended, with one `completed` in its history, and exactly its own points must be visible.

    python -m tests.faults.kill_everything --tasks 200 --kills 20 --seed 1
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.faults.processes import kill, processes_of
from trainwright.embedded.archive import free_ports

SCRIPT = """
import sys, time
import trainwright

base, steps, pause = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
run = trainwright.init()
for step in range(steps):
    run.log(step, {"value": base + step}, total_steps=steps)
    time.sleep(pause)
print("trained", base)
"""

FINAL = ("completed", "failed", "cancelled")


@dataclass(slots=True)
class Verdict:
    """What was found at the end."""

    tasks: int
    kills: int
    seconds: float = 0.0
    attempts: int = 0
    wrong: list[str] = field(default_factory=list)
    restarts: list[float] = field(default_factory=list)

    def line(self) -> str:
        """Return the verdict as one line."""
        slowest = max(self.restarts, default=0.0)
        return (
            f"{self.tasks} tasks, {self.kills} kills, {self.attempts} attempts, {self.seconds:.0f} s, "
            f"slowest `up` {slowest:.1f} s, wrong: {len(self.wrong)}"
        )


class Home:
    """One home under test."""

    def __init__(self, folder: Path, workers: int) -> None:
        self.folder = folder
        self._workers = workers
        (self._port,) = free_ports(1)

    def up(self) -> float:
        """Start the platform in the background; return the seconds until it was ready."""
        begun = time.monotonic()
        command = [*_cli(), "up", "--home", str(self.folder), "--port", str(self._port)]
        command += ["--workers", str(self._workers), "--detach"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        if done.returncode != 0:
            raise AssertionError(f"`up` failed: {done.stdout}{done.stderr}")
        return time.monotonic() - begun

    def down(self) -> None:
        """Stop the platform."""
        command = [*_cli(), "down", "--home", str(self.folder)]
        subprocess.run(command, capture_output=True, timeout=120, check=True)

    def client(self) -> httpx.Client:
        """Return a client of the public API."""
        state = json.loads((self.folder / "state.json").read_text())
        key = (self.folder / "api-key").read_text().strip()
        headers = {"Authorization": f"Bearer {key}"}
        return httpx.Client(base_url=f"{state['url']}/api/v1/training", headers=headers, timeout=30)

    def kill(self, *, runs_too: bool) -> int:
        """Kill what runs; return how many processes were hit."""
        return len(kill(self.folder, lambda process: runs_too or not process.is_run))


@contextmanager
def home(folder: Path, workers: int) -> Iterator[Home]:
    """Keep a home until the end of the block; nothing of it lives on."""
    found = Home(folder, workers)
    try:
        yield found
    finally:
        found.kill(runs_too=True)


def campaign(folder: Path, *, tasks: int, kills: int, seed: int, workers: int = 2, steps: int = 40) -> Verdict:
    """Run the campaign; return the verdict."""
    dice = random.Random(seed)
    verdict = Verdict(tasks, kills)
    begun = time.monotonic()
    with home(folder, workers) as platform:
        platform.up()
        bases = _submit_all(platform, folder, tasks, steps)
        for number in range(kills):
            time.sleep(dice.uniform(0.5, 4.0))
            hit = platform.kill(runs_too=number % 2 == 1)
            seconds = platform.up()
            verdict.restarts.append(seconds)
            _say(f"kill {number + 1}/{kills}: {hit} processes, up again in {seconds:.1f} s")
        _wait_for_all(platform, bases, verdict)
        for task_id, base in bases.items():
            verdict.wrong += _wrong_with(platform, task_id, base, steps, verdict)
        platform.down()
        verdict.wrong += [f"left behind: {process.command}" for process in processes_of(folder)]
    verdict.seconds = time.monotonic() - begun
    return verdict


def _submit_all(platform: Home, folder: Path, tasks: int, steps: int) -> dict[str, int]:
    script = folder.with_suffix(".py")
    script.write_text(SCRIPT)
    bases = {}
    with platform.client() as api:
        for number in range(tasks):
            base = number * 1000
            parameters = {"path": str(script), "args": [str(base), str(steps), "0.05"]}
            config = {"recipe": "script", "parameters": parameters, "resource_requirements": {"cpu": 0.25}}
            answer = api.post("/tasks", json={"config": config, "start": True})
            answer.raise_for_status()
            bases[answer.json()["task_id"]] = base
    return bases


def _wait_for_all(platform: Home, bases: dict[str, int], verdict: Verdict) -> None:
    deadline = time.monotonic() + 120 + 3 * len(bases)
    left = set(bases)
    while left and time.monotonic() < deadline:
        with platform.client() as api:
            left = {task_id for task_id in left if _get(api, f"/tasks/{task_id}")["status"] not in FINAL}
        time.sleep(0.5)
    verdict.wrong += [f"{task_id} did not end" for task_id in left]


def _wrong_with(platform: Home, task_id: str, base: int, steps: int, verdict: Verdict) -> list[str]:
    wanted = [[step, base + step] for step in range(steps)]
    with platform.client() as api:
        task = _get(api, f"/tasks/{task_id}")
        history = _get(api, f"/tasks/{task_id}/history")["entries"]
        points: list[Any] = []
        for _ in range(100):  # metrics travel on a topic of their own
            answer = api.get(f"/tasks/{task_id}/metrics", params={"name": "value", "max_points": 10_000})
            points = answer.json().get("points", [])
            if points == wanted:
                break
            time.sleep(0.1)
    verdict.attempts += len(task["attempts"])
    completed = [entry["status"] for entry in history].count("completed")
    wrong = [] if completed == 1 else [f"{task_id}: {completed} × completed; {task['status']}: {task['reason']}"]
    if points != wanted:
        wrong.append(f"{task_id}: {len(points)} points instead of its own {steps}: {points[:3]} … {points[-3:]}")
    return wrong


def _get(api: httpx.Client, path: str) -> dict[str, Any]:
    answer = api.get(path)
    answer.raise_for_status()
    return dict(answer.json())


def _cli() -> list[str]:
    return [str(Path(sys.executable).with_name("trainwright"))]


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


def main() -> None:
    """Run the campaign from the command line; exit 1 if anything was wrong."""
    parser = argparse.ArgumentParser(description="Kill everything while tasks run.")
    parser.add_argument("--tasks", type=int, default=200)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="trainwright-kill-") as scratch:
        folder = Path(scratch) / "home"
        verdict = campaign(
            folder,
            tasks=arguments.tasks,
            kills=arguments.kills,
            seed=arguments.seed,
            workers=arguments.workers,
        )
    _say("\n".join([*verdict.wrong, verdict.line()]))
    sys.exit(1 if verdict.wrong else 0)


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    main()
