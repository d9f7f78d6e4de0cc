"""The command line against a real platform: what a person types, and what the shell gets back."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.platform_up import platform

ROOT = Path(__file__).resolve().parents[2]
FIT = ROOT / "examples" / "scripts" / "fit_line.py"
SLOW = "import time, trainwright\nrun = trainwright.init()\nprint('begun', flush=True)\n"
SLOW += "for step in range(1, 1000):\n    run.log(step, {'loss': 1 / step}, total_steps=1000)\n"
SLOW += "    if run.should_stop():\n        break\n    time.sleep(0.1)\n"

pytestmark = pytest.mark.timeout(300)


class Shell:
    """Runs `trainwright` in a folder, with a home of its own."""

    def __init__(self, folder: Path, home: Path) -> None:
        self.folder = folder
        kept = {name: value for name, value in os.environ.items() if not name.startswith("TRAINWRIGHT_")}
        self.environment = {**kept, "TRAINWRIGHT_HOME": str(home)}

    def start(self, *arguments: str, **environment: str) -> "subprocess.Popen[str]":
        """Start a command."""
        return subprocess.Popen(
            [sys.executable, "-m", "trainwright.cli.main", *arguments],
            cwd=self.folder,
            env={**self.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *arguments: str, code: int = 0, **environment: str) -> str:
        """Run a command that must end with `code`; return what it wrote, errors last."""
        process = self.start(*arguments, **environment)
        out, err = process.communicate(timeout=120)
        assert process.returncode == code, f"{arguments}: exit code {process.returncode}\n{out}\n{err}"
        assert "Traceback" not in err
        return out + err

    def lines(self, *arguments: str, code: int = 0) -> list[dict[str, object]]:
        """Run a command and return its lines of JSON."""
        process = self.start(*arguments)
        out, err = process.communicate(timeout=120)
        assert process.returncode == code, err
        return [json.loads(line) for line in out.splitlines()]


@pytest.fixture(scope="module", name="shell")
def _shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    with platform(tmp_path_factory.mktemp("home")) as up:
        yield Shell(tmp_path_factory.mktemp("work"), up.home)


def write_task(folder: Path, name: str, script: str) -> Path:
    (folder / f"{name}.py").write_text(script)
    document = folder / f"{name}.yaml"
    document.write_text(f"name: {name}\nrecipe: script\nparameters: {{path: {name}.py}}\n")
    return document


def test_a_script_runs_and_what_it_wrote_and_left_can_be_looked_at(shell: Shell) -> None:
    said = shell("run", str(FIT), "--", "--steps", "50", "--pause", "0")
    assert "fitting a line to 100 points in 50 steps" in said
    assert "completed" in said
    task = shell.lines("task", "list", "--json")[0]
    task_id = str(task["task_id"])
    assert task["status"] == "completed"
    assert task["progress"] == {"current_step": 50, "total_steps": 50, "percentage": 100.0}

    series = shell.lines("metrics", task_id, "--name", "loss", "--json", "--max-points", "1000")[0]
    points = series["points"]
    assert isinstance(points, list)
    assert [step for step, _ in points] == list(range(1, 51))
    assert "loss" in shell("metrics", task_id)
    assert "fitting a line to 100 points in 50 steps" in shell("logs", task_id)
    assert "completed" in shell("task", "show", task_id)
    (model,) = [m for m in shell.lines("model", "list", "--json") if m["task_id"] == task_id]
    assert "line.json" in shell("model", "show", str(model["model_id"]))
    assert "<html" in Path(shell("report", task_id, "-o", str(shell.folder / "r.html")).strip()).read_text()
    assert shell.lines("worker", "list", "--json")[0]["state"] == "alive"
    assert shell("dead", "list").strip() == "no dead letters"

    events = shell.lines("events", "tail", "--topic", "task", "--from-beginning", "--limit", "2", "--json")
    assert events[0]["type"] == "trainwright.task.TaskCreated.v1"


def test_a_failing_script_ends_with_one_and_names_the_line(shell: Shell) -> None:
    document = write_task(
        shell.folder, "broken", "import trainwright\nvalue = 1\nraise ValueError('no such luck')\n"
    )
    said = shell("submit", str(document), "--watch", code=1)
    assert "no such luck" in said
    assert "broken.py:3" in said
    assert "trainwright logs task-" in said
    lines = shell.lines("submit", str(document), "--watch", "--json", code=1)
    assert lines[-1]["status"] == "failed"


def test_ctrl_c_while_watching_leaves_the_task_running_and_says_how_to_cancel(shell: Shell) -> None:
    watching = shell.start("submit", str(write_task(shell.folder, "slow", SLOW)), "--watch")
    assert watching.stdout is not None
    task_id = watching.stdout.readline().split()[0]
    wait_for(shell, task_id, "running")
    watching.send_signal(signal.SIGINT)
    _, err = watching.communicate(timeout=20)
    assert watching.returncode == 130
    assert f"trainwright task cancel {task_id}" in err
    assert shell.lines("task", "show", task_id, "--json")[0]["status"] == "running"
    assert shell.lines("task", "cancel", task_id, "--json")[0]["phase"] in ("stopping", "ended")
    wait_for(shell, task_id, "cancelled")
    assert "is cancelled already" in shell("task", "cancel", task_id, code=1)


def test_logs_follow_to_the_end(shell: Shell) -> None:
    script = "import time\nfor n in range(5):\n    print('line', n, flush=True)\n    time.sleep(0.2)\n"
    answer = shell.lines("submit", str(write_task(shell.folder, "talks", script)), "--json")[0]
    lines = shell.lines("logs", str(answer["task_id"]), "-f", "--json")
    assert [entry["message"] for entry in lines if str(entry["message"]).startswith("line")] == [
        f"line {n}" for n in range(5)
    ]


def test_what_is_wrong_is_said_in_one_sentence(shell: Shell) -> None:
    bad = shell.folder / "bad.yaml"
    bad.write_text("recipe: forecst\nparameters: {}\n")
    assert "forecast" in shell("submit", str(bad), code=1)
    bad.write_text("recipe: [\n")
    assert "bad.yaml:2:1" in shell("submit", str(bad), code=1)
    assert "task-000000000000" in shell("task", "show", "task-000000000000", code=1)
    refused = shell("task", "list", code=1, TRAINWRIGHT_API_KEY="wrong")
    assert "refused the key from TRAINWRIGHT_API_KEY" in refused
    assert "no topic 'tsk'" in shell("events", "tail", "--topic", "tsk", code=1)


def wait_for(shell: Shell, task_id: str, status: str, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while (found := shell.lines("task", "show", task_id, "--json")[0]["status"]) != status:
        assert time.monotonic() < deadline, f"{task_id} is {found}, not {status}"
        time.sleep(0.2)
