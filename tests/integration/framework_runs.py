"""Trainings of a framework, many of them: it is imported once, and each training is a forked process of its own.

Every run has a folder as a worker makes it. In a test: `Runs`; as a process: `python -m … <module> <jobs>`.
Not here: what is trained (huggingface_run.py, lightning_run.py).
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.faults.attempts import Record
from trainwright.contracts.checkpoint import CheckpointManifest
from trainwright.training import layout
from trainwright.training.checkpoints import verify, whole_folders
from trainwright.training.spool import SpoolReader


class Runs:
    """Trainings of one module; `go()` makes those that were asked for since."""

    def __init__(self, root: Path, module: str) -> None:
        self._root = root
        self._module = module
        self._jobs: list[dict[str, Any]] = []

    def add(self, name: str, after: str | None = None, entry: str = "train", **parameters: Any) -> None:
        """Plan a run; `after` names the one whose newest checkpoint it goes on from."""
        self._jobs.append({"name": name, "after": after, "entry": entry, "parameters": parameters})

    def go(self) -> None:
        """Make the planned runs, one after the other."""
        jobs, self._jobs = self._jobs, []
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TRAINWRIGHT_")}
        subprocess.run(
            [sys.executable, "-m", "tests.integration.framework_runs", self._module, json.dumps(jobs)],
            cwd=self._root,
            env={**environment, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])},
            check=True,
            timeout=300,
        )

    def folder(self, name: str) -> Path:
        """Return a run's folder."""
        return self._root / name

    def code(self, name: str) -> int:
        """Return how the process ended: its exit status, or minus the signal."""
        return int((self.folder(name) / "code").read_text())

    def said(self, name: str) -> str:
        """Return what it wrote to stdout and stderr."""
        return (self.folder(name) / "said").read_text()

    def left(self, name: str) -> bytes:
        """Return what it left: weights, moments, and what the generators would draw next."""
        assert self.code(name) == 0, self.said(name)
        return (self.folder(name) / layout.BUNDLE / "model.safetensors").read_bytes()

    def points(self, name: str) -> list[Record]:
        """Return what it logged."""
        reader = SpoolReader(self.folder(name) / layout.SPOOL)
        found: list[Record] = []
        while some := reader.read():
            found += [(one.step, one.total_steps, repr(sorted(one.values.items()))) for one in some]
        reader.close()
        return found

    def history(self, *names: str) -> list[Record]:
        """Return the metric history that people see of a run's attempts."""
        seen: list[Record] = []
        for name in names:
            resumed = self.folder(name) / layout.RESUME
            step = verify(resumed).step if resumed.exists() else 0
            seen = [point for point in seen if point[0] <= step] + self.points(name)
        return seen

    def newest(self, name: str) -> CheckpointManifest:
        """Return the manifest of its newest checkpoint."""
        return verify(whole_folders(self.folder(name) / layout.CHECKPOINTS)[0])

    def files(self, name: str) -> set[str]:
        """Return the names of all its files, wherever they are."""
        return {path.name for path in self.folder(name).rglob("*") if path.is_file()}

    def notes(self, name: str) -> Any:
        """Return what the run wrote down for the test."""
        return json.loads((self.folder(name) / "notes.json").read_text())


def kill_or_pause(run: Any, step: int, parameters: Mapping[str, Any]) -> None:
    """At the step that the parameters name be killed, as soon as there is a checkpoint; or ask for a pause."""
    if step == parameters.get("kill_at"):
        while not whole_folders(run.directory / layout.CHECKPOINTS):
            time.sleep(0.002)
        run.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    if step == parameters.get("pause_at"):
        layout.write_json(run.directory / layout.CONTROL, {"revision": 1, "stop": {"kind": "pause"}})
        while not run.should_stop():
            time.sleep(0.002)


def _train(module: Any, job: Mapping[str, Any]) -> int:
    """Make one run, in a forked process; return its exit status, or minus the signal."""
    folder = Path(job["name"]).absolute()
    (folder / layout.WORK).mkdir(parents=True)
    resume = None
    if job["after"]:
        saved = whole_folders(Path(job["after"]) / layout.CHECKPOINTS)[0]
        shutil.copytree(saved, folder / layout.RESUME)
        resume = {"step": verify(saved).step, "folder": layout.RESUME}
    layout.write_json(folder / layout.SPEC, {"attempt": 1, "parameters": job["parameters"], "resume": resume})
    child = os.fork()
    if child == 0:
        said = os.open(folder / "said", os.O_WRONLY | os.O_CREAT)
        os.dup2(said, 1)
        os.dup2(said, 2)
        os.environ[layout.RUN_DIR_VARIABLE] = str(folder)
        os.chdir(folder / layout.WORK)
        try:
            getattr(module, job["entry"])()
            code = 0
        except BaseException:
            traceback.print_exc()
            code = 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main() -> None:
    """Make the runs that the command line names."""
    module = import_module(sys.argv[1])
    for job in json.loads(sys.argv[2]):
        code = _train(module, job)
        Path(job["name"], "code").write_text(str(code))


if __name__ == "__main__":
    main()
