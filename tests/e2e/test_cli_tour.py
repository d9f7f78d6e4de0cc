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
from tests.patience import patient
from trainwright.client import Client, IllegalTransition

ROOT = Path(__file__).resolve().parents[2]
FIT = ROOT / "examples" / "scripts" / "fit_line.py"
SLOW = "import time, trainwright\nrun = trainwright.init()\nprint('begun', flush=True)\n"
SLOW += "for step in range(1, 1000):\n    run.log(step, {'loss': 1 / step}, total_steps=1000)\n"
SLOW += "    if run.should_stop():\n        break\n    time.sleep(0.1)\n"
STEPS = "import time, trainwright\nrun = trainwright.init()\nstate = {'sum': 0}\n"
STEPS += "state = run.resumed.state['state'] if run.resumed else state\n"
STEPS += "for step in run.steps(1000, checkpoint_every=10, state=state):\n    state['sum'] += step\n"
STEPS += "    run.log(step, {'sum': state['sum']}, total_steps=1000)\n    time.sleep(0 if run.resumed else 0.05)\n"

pytestmark = pytest.mark.timeout(300)


class Shell:
    """Runs `trainwright` in a folder, with a home of its own."""

    def __init__(self, folder: Path, home: Path) -> None:
        self.folder, self.home = folder, home
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
    _, err = watching.communicate(timeout=90)
    assert watching.returncode == 130
    assert f"trainwright task cancel {task_id}" in err
    assert shell.lines("task", "show", task_id, "--json")[0]["status"] == "running"
    assert shell.lines("task", "cancel", task_id, "--json")[0]["phase"] in ("stopping", "ended")
    wait_for(shell, task_id, "cancelled")
    assert f"{task_id} cancelled" in shell("task", "cancel", task_id), "it is what was asked for"


def test_a_run_is_paused_looked_at_and_resumed_and_ends_as_if_nothing_had_been(shell: Shell) -> None:
    watching = shell.start("submit", str(write_task(shell.folder, "steps", STEPS)), "--watch")
    assert watching.stdout is not None
    task_id = watching.stdout.readline().split()[0]
    wait_for_checkpoint(shell, task_id)
    paused = shell("task", "pause", task_id, "--wait")
    assert f"{task_id} paused: resume goes on from step" in paused
    _, err = watching.communicate(timeout=90)
    assert watching.returncode == 130, "paused is not completed: what would follow in a script must not"
    assert f"trainwright task resume {task_id}" in err
    kept = shell.lines("task", "checkpoints", task_id, "--json")
    assert f"step {kept[0]['step']}" in paused
    assert (kept[0]["kind"], len(kept)) == ("stop", 3)
    assert f"the newest at step {kept[0]['step']}" in shell("task", "show", task_id)
    assert "cannot be started: resume it, or cancel it" in shell("task", "start", task_id, code=1)

    assert "running" in shell("task", "resume", task_id, "--wait")
    watched = shell("task", "watch", task_id)
    assert "script/steps/v1" in watched
    first, second = shell.lines("task", "attempts", task_id, "--json")
    assert (first["outcome"], second["outcome"], second["resume_step"]) == ("paused", "completed", kept[0]["step"])
    assert "pause requested" in [entry["cause"] for entry in shell.lines("task", "history", task_id, "--json")]
    series = shell.lines("metrics", task_id, "--name", "sum", "--json", "--max-points", "2000")[0]
    assert series["points"] == [[n, n * (n + 1) / 2] for n in range(1, 1001)]
    assert "rerun makes a new task" in shell("task", "resume", task_id, code=1)
    with Client(home=shell.home) as client:
        assert [one.outcome for one in client.attempts(task_id).attempts] == ["paused", "completed"]
        assert next(one.step for one in client.checkpoints(task_id).checkpoints if one.kept) == 1000
        for ask in (client.pause, client.resume):
            with pytest.raises(IllegalTransition, match="is completed"):
                ask(task_id, wait=1)


def test_a_document_is_kept_changed_run_and_its_parameters_changed_meanwhile(shell: Shell) -> None:
    shell("config", "new", "--recipe", "script/repairable", "--out", "kept.yaml")
    assert "exists" in shell("config", "new", "--recipe", "script", "--out", "kept.yaml", code=1)
    (shell.folder / "train.py").write_text(STEPS)
    config_id = shell("config", "create", "kept.yaml", "-m", "first").split()[0]
    shell("config", "set", config_id, "parameters.batch_size=32", "labels.team=sales", "-m", "smaller")
    (batch, label) = shell.lines("config", "diff", config_id, "1", "--json")
    assert (batch["path"], batch["old"], batch["new"], label["path"]) == (
        "parameters.batch_size",
        64,
        32,
        "labels",
    )
    assert "# Command-line arguments" in shell("config", "export", config_id)
    (shell.folder / "bad.yaml").write_text("recipe: scrpt\n")
    assert "did you mean 'script'?" in shell("config", "validate", "bad.yaml", code=1)

    task_id = shell("submit", "--config", f"{config_id}@2").split()[0]
    later = shell("submit", "--config", config_id, "--after", task_id, "--set", "parameters.batch_size=8").split()[
        0
    ]
    said = shell("task", "set-parameters", task_id, "learning_rate=1e-4", "--reason", "too fast", "--wait", "60")
    assert "revision 1 applied: holds from step" in said
    assert "must be at most 1" in shell("task", "set-parameters", task_id, "learning_rate=2", "-r", "x", code=1)
    assert "learning_rate 0.001 → 0.0001" in shell("task", "parameters", task_id)
    shell("task", "set", later, "--priority", "5")
    shell("task", "cancel", task_id, "--wait")
    assert f"{task_id} (script-repairable), which it depends on, was cancelled" in shell("task", "show", later)
    shell("task", "archive", task_id)
    assert task_id not in [one["task_id"] for one in shell.lines("task", "list", "--json")]
    assert task_id in shell("task", "list", "--archived", "--label", "team=sales")


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
    for wish in ("show", "pause", "checkpoints"):
        assert "task-000000000000" in shell("task", wish, "task-000000000000", code=1)
    refused = shell("task", "list", code=1, TRAINWRIGHT_API_KEY="wrong")
    assert "refused the key from TRAINWRIGHT_API_KEY" in refused
    assert "no topic 'tsk'" in shell("events", "tail", "--topic", "tsk", code=1)


def wait_for_checkpoint(shell: Shell, task_id: str, seconds: float = 30) -> None:
    deadline = patient(seconds)
    while not shell.lines("task", "checkpoints", task_id, "--json"):
        assert time.monotonic() < deadline, f"{task_id} saved no checkpoint"
        time.sleep(0.2)


def wait_for(shell: Shell, task_id: str, status: str, seconds: float = 30) -> None:
    deadline = patient(seconds)
    while (found := shell.lines("task", "show", task_id, "--json")[0]["status"]) != status:
        assert time.monotonic() < deadline, f"{task_id} is {found}, not {status}"
        time.sleep(0.2)
