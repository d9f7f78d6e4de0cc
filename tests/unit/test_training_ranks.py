"""Two workers of one attempt, each with two processes: those with a run context agree, others are not asked."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.unit.test_training_hot import answers, attempt, change, hand_over
from trainwright.training.follower import Follower

FOUR = """
import os, sys
import torch.distributed as distributed
from trainwright.training.ranks import Ranks

children = []
for rank in range(4):
    children.append(os.fork())
    if not children[-1]:
        break
else:
    sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
distributed.init_process_group("gloo", init_method=f"file://{sys.argv[1]}", rank=rank, world_size=4)
if rank % 2 == 0:
    one = Ranks({"rank": rank // 2, "members": 2})
    lone = Ranks({"rank": 0, "members": 1})
    assert lone.agreed(rank == 0, rank, []) == (rank == 0, rank, [])
    assert not one.are_apart
    assert Ranks({"rank": 1 - rank // 2, "members": 2}).are_apart, "not numbered as torchrun does"
    assert Ranks({"rank": rank // 2, "members": 3}).are_apart
    assert one.agreed(rank == 2, 7 + rank, ["of", rank]) == (False, 7, ["of", 0])
    assert one.agreed(rank == 0, 8 + rank, []) == (True, 8, [])
    assert one.refusal(None) is None
    assert one.refusal("no" if rank else None) == "rank 1: no"
    assert one.refusal(f"no {rank}") == "no 0"
distributed.barrier()
distributed.destroy_process_group()
"""


def test_those_with_a_run_have_rank_0_s_word_and_the_others_are_not_asked(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FOUR, str(tmp_path / "meeting")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_ranks_that_are_not_joined_refuse_what_comes_while_they_train_and_begin_with_what_came_before(
    tmp_path: Path,
) -> None:
    gang: dict[str, Any] = {"members": 2, "parameters": {"lr": 0.2}, "changes": [change(1, None, lr=(0.1, 0.2))]}
    first, second = (attempt(tmp_path, rank + 1, rank=rank, **gang) for rank in (0, 1))
    for run in (first, second):
        hand_over(run, change(2, None, lr=(0.2, 0.3)))
        assert not run.should_stop()
        assert run.parameters == {"lr": 0.2}
        run.finish()
    said = {one["revision"]: one for one in answers(first)}
    assert said[1] == {"revision": 1, "step": 1}
    assert "its processes are not joined by torch.distributed" in said[2]["error"]
    assert answers(second) is None, "rank 0 answers"


def test_a_rank_that_leaves_files_is_told_that_they_are_not_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("plain", "writes"):
        (tmp_path / name).mkdir()
        run = Follower(tmp_path / name, {}, in_worker=True, name=name)
        if name == "writes":
            (run.output / "model.pt").touch()
        run.finish()
        run.finish()
        assert capsys.readouterr().err.count("what it left in `output` is not kept") == (name == "writes")
