"""A torch run that is killed and resumed in a new process is the same run; a run alone resumes as well."""

import json
import shutil
import subprocess
import sys
import tempfile
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.script_kit import run, start
from trainwright.training import checkpoints, layout, rng

ROOT = Path(__file__).parents[2]
EXAMPLE = (ROOT / "examples/scripts/train_mlp.py").read_text()
MAIN = 'if __name__ == "__main__":'
PARAMETERS = {"data": str(ROOT / "examples/data/walmart_sales_weekly.csv"), "steps": 40, "save_every": 7}
KILL = """
def killed(self, step, values, total_steps=None):
    if step == 25:
        self._saver.wait()
        os.kill(os.getpid(), 9)
trainwright.Run.log = killed
"""
FORGET = """
from trainwright.training import rng
rng.restore_random = lambda state: None
"""


def script(extra: str = "") -> str:
    """Return the example, with something done before it trains."""
    head, _, rest = EXAMPLE.partition(MAIN)
    return f"{head}\nimport os\nSALES = None\n{extra}\n{MAIN}{rest}".replace("Path(__file__)", "Path('/x/y')")


def folder_of(base: Path, name: str, before: Path | None = None) -> Path:
    folder = base / name
    folder.mkdir()
    resume: dict[str, Any] | None = None
    if before is not None:
        newest = checkpoints.whole_folders(before / layout.CHECKPOINTS)[0]
        shutil.copytree(newest, folder / layout.RESUME)
        resume = {"step": checkpoints.verify(newest).step, "folder": layout.RESUME}
    layout.write_json(folder / layout.SPEC, {"attempt": 1, "resume": resume, "parameters": PARAMETERS})
    return folder


def trained(*runs: "AbstractContextManager[subprocess.Popen[str]]") -> list[int]:
    with ExitStack() as all_of_them:
        processes = [all_of_them.enter_context(one) for one in runs]
        assert [process.communicate(timeout=120)[1] for process in processes] == [""] * len(runs)
    return [process.returncode for process in processes]


def weights(folder: Path) -> bytes:
    return (folder / layout.BUNDLE / "model.safetensors").read_bytes()


def test_killed_and_resumed_the_weights_are_the_same_bits_and_a_forgotten_generator_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # two at a time, on any machine
    whole, first = folder_of(tmp_path, "whole"), folder_of(tmp_path, "first")
    assert trained(start(script(), whole), start(script(KILL), first)) == [0, -9]
    second, wrong = folder_of(tmp_path, "second", first), folder_of(tmp_path, "wrong", first)
    assert layout.read_json(second / layout.SPEC)["resume"]["step"] == 21  # type: ignore[index]
    assert trained(start(script(), second), start(script(FORGET), wrong)) == [0, 0]
    assert weights(second) == weights(whole)
    assert weights(wrong) != weights(whole)
    last = [checkpoints.whole_folders(one / layout.CHECKPOINTS)[0] for one in (whole, second)]
    files = [checkpoints.verify(one).files for one in last]
    assert files[0]["optimizer.safetensors"] == files[1]["optimizer.safetensors"]
    assert files[0]["batches.safetensors"] == files[1]["batches.safetensors"]


def test_the_generators_go_on_where_they_were() -> None:
    import random

    kept = rng.random_state()
    drawn = (random.random(), np.random.rand(3).tolist(), torch.rand(3).tolist())
    rng.restore_random(kept)
    assert (random.random(), np.random.rand(3).tolist(), torch.rand(3).tolist()) == drawn


def test_threads_are_set_as_they_were_and_what_else_decides_the_bits_is_said() -> None:
    now, threads = rng.environment(), torch.get_num_threads()
    assert rng.restore_environment(now) == []
    assert rng.restore_environment({"python": "3.11.1"}) == [], "it was no run of torch"
    other = {**now, "torch": "1.0", "device": "tpu", "threads": threads + 1}
    try:
        said = rng.restore_environment(other)
        assert torch.get_num_threads() == threads + 1
    finally:
        torch.set_num_threads(threads)
    assert said == [f"torch was '1.0', is {torch.__version__!r}", "device was 'tpu', is 'cpu'"]


def test_another_version_is_a_warning_on_stderr(tmp_path: Path) -> None:
    before = folder_of(tmp_path, "before")
    run("import torch, trainwright; trainwright.init().checkpoint(5)", before)
    (saved,) = checkpoints.whole_folders(before / layout.CHECKPOINTS)
    manifest = json.loads((saved / "manifest.json").read_text())
    manifest["environment"]["torch"] = "1.13.0"
    (saved / "manifest.json").write_text(json.dumps(manifest))
    done = run("import trainwright; trainwright.init().resume()", folder_of(tmp_path, "again", before))
    assert done.returncode == 0
    assert done.stderr == (
        "trainwright: the bits of this run may differ from those of an uninterrupted one: "
        f"torch was '1.13.0', is '{torch.__version__}'\n"
    )


ALONE = """
import sys, trainwright
resume = {"True": True, "None": None}[sys.argv[1]]
run = trainwright.init(name=sys.argv[2], resume=resume)
seen = []
for step in run.steps(int(sys.argv[3]), checkpoint_every=2, seen=seen):
    seen.append(step)
    if len(sys.argv) > 4 and step == int(sys.argv[4]):
        sys.exit(1)
print(seen)
"""


def alone(folder: Path, *arguments: object) -> "subprocess.CompletedProcess[str]":
    file = folder / "alone.py"
    file.write_text(ALONE)
    command = [sys.executable, "-W", "error", str(file), *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_a_run_alone_goes_on_from_the_newest_of_its_name_that_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = tmp_path / "trainwright-runs"
    fresh = alone(tmp_path, True, "mine", 9, 7)
    assert "no checkpoint of 'mine'" in fresh.stderr
    assert "starting from the beginning" in fresh.stderr
    alone(tmp_path, None, "mine-2", 4)
    again = alone(tmp_path, True, "mine", 9, 9)
    assert "going on after step 6, from " in again.stderr
    (second,) = (one.parent for one in runs.glob("mine-*/resume"))
    (newest, *_) = checkpoints.whole_folders(second / layout.CHECKPOINTS)
    (newest / "state.json").write_text("{}")
    third = alone(tmp_path, True, "mine", 9)
    assert "state.json is damaged" in third.stderr
    assert "looking at the one before" in third.stderr
    assert f"going on after step 6, from {second / 'resume'}" in third.stderr
    assert third.stdout == "[1, 2, 3, 4, 5, 6, 7, 8, 9]\n"
    monkeypatch.setenv("TRAINWRIGHT_RESUME", "1")
    done = alone(tmp_path, None, "mine", 9)
    assert done.stdout == "[1, 2, 3, 4, 5, 6, 7, 8, 9]\n", "nothing was left to do"
    shutil.rmtree(next(runs.glob("mine-2-*")) / layout.CHECKPOINTS)
    assert "[1, 2, 3, 4]" in alone(tmp_path, True, "mine-2", 4).stdout


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="needs a second disk")
def test_a_run_that_was_moved_to_another_disk_is_gone_on_from(tmp_path: Path) -> None:
    """Its files cannot get a second name here: they are copied."""
    alone(tmp_path, True, "mine", 4)
    (before,) = (tmp_path / "trainwright-runs").glob("mine-*")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as disk:
        before.symlink_to(shutil.move(before, disk))
        again = alone(tmp_path, True, "mine", 6)
    assert again.stdout == "[1, 2, 3, 4, 5, 6]\n"
