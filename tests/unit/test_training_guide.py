"""The guide's loops run as they are shown, and go on as it says."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from trainwright.training import checkpoints

GUIDE = (Path(__file__).parents[2] / "docs" / "checkpoints.md").read_text()
LOOPS = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)


def alone(folder: Path, **extra: str) -> "subprocess.CompletedProcess[str]":
    environment = {key: value for key, value in os.environ.items() if not key.startswith("TRAINWRIGHT_")}
    command = [sys.executable, "-W", "error", str(folder / "loop.py")]
    environment |= {"OMP_NUM_THREADS": "1", **extra}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_the_guide_shows_two_loops() -> None:
    assert len(LOOPS) == 2


@pytest.mark.parametrize("loop", LOOPS)
def test_a_loop_of_the_guide_runs_saves_its_end_and_has_nothing_left_to_do_then(tmp_path: Path, loop: str) -> None:
    (tmp_path / "loop.py").write_text(loop)
    first = alone(tmp_path)
    assert first.returncode == 0, first.stderr
    (folder,) = tmp_path.glob("trainwright-runs/*/checkpoints")
    last = checkpoints.verify(checkpoints.whole_folders(folder)[0])
    assert last.kind == "final"
    again = alone(tmp_path, TRAINWRIGHT_RESUME="1")
    assert again.returncode == 0, again.stderr
    assert f"going on after step {last.step}" in again.stderr
