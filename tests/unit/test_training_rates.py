"""A learning rate that a repair changed holds after a resume, whatever the saved state says."""

from pathlib import Path
from typing import Any

import pytest
import torch

from trainwright.training import checkpoints, layout
from trainwright.training.context import Run
from trainwright.training.rates import change_rates


def parts(rate: float) -> dict[str, Any]:
    """Return what a plain loop trains with, made with a learning rate."""
    model = torch.nn.Linear(2, 1)
    groups: list[dict[str, Any]] = [{"params": [model.weight]}, {"params": [model.bias], "lr": rate / 10}]
    optimizer = torch.optim.SGD(groups, lr=rate)
    return {
        "model": model,
        "optimizer": optimizer,
        "schedule": torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10),
    }


def rates_by_step(made: dict[str, Any], steps: int) -> list[list[float]]:
    """Take steps; return the learning rates that each was taken with."""
    found = []
    for _ in range(steps):
        found.append([group["lr"] for group in made["optimizer"].param_groups])
        made["optimizer"].step()
        made["schedule"].step()
    return found


def attempt(base: Path, number: int, before: Path | None) -> Run:
    """Start an attempt in a run directory, as a worker's child does."""
    folder = base / f"attempt-{number}"
    folder.mkdir()
    resume = None
    if before is not None:
        newest = checkpoints.whole_folders(before / layout.CHECKPOINTS)[0]
        (folder / layout.RESUME).symlink_to(newest)
        resume = {"step": checkpoints.verify(newest).step, "folder": layout.RESUME}
    layout.write_json(folder / layout.SPEC, {"attempt": number, "resume": resume})
    return Run(folder, {}, in_worker=True, name="test")


@pytest.mark.parametrize(("asked", "factor"), [(0.2, 1.0), (0.1, 0.5)])
def test_the_rate_that_is_asked_for_now_holds(tmp_path: Path, asked: float, factor: float) -> None:
    first = attempt(tmp_path, 1, None)
    made = parts(0.2)
    first.resume(**made)
    rates_by_step(made, 4)
    first.checkpoint(4, wait=True, **made)
    expected = [[rate * factor for rate in of_step] for of_step in rates_by_step(made, 6)]
    first.finish()

    second = attempt(tmp_path, 2, first.directory)
    again = parts(asked)
    assert second.resume(**again) == 4
    assert second.resumed is not None
    assert list(second.resumed.state) == ["model", "optimizer", "schedule"], "nothing that the script did not save"
    assert rates_by_step(again, 6) == [pytest.approx(of_step, rel=1e-6) for of_step in expected]
    second.checkpoint(10, wait=True, **again)
    second.finish()

    third = attempt(tmp_path, 3, second.directory)
    last = parts(asked)
    third.resume(**last)
    assert [group["lr"] for group in last["optimizer"].param_groups] == [
        group["lr"] for group in again["optimizer"].param_groups
    ], "what was repaired once is not repaired again"
    third.finish()


def test_other_parameter_groups_are_named() -> None:
    made = parts(0.2)
    with pytest.raises(ValueError, match=r"\[1\] parameter groups, this run's \[2\]"):
        change_rates([made["optimizer"]], [], [[0.2]], [[0.1, 0.01]])
