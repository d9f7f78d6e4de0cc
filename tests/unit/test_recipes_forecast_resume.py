"""The forecaster, stopped, resumed and repaired: it ends with the same bits, and its journal says what changed."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from tests.forecast_kit import CPU, Watched, configured, trained, walmart
from trainwright.contracts.checkpoint import CheckpointKind
from trainwright.contracts.task_config import RepairRole
from trainwright.recipes import config_model, find
from trainwright.recipes.forecast.network import TCN
from trainwright.recipes.forecast.training import Fits, loop_of, train
from trainwright.training import layout
from trainwright.training.checkpoints import manifest_of, whole_folders
from trainwright.training.loop import Diverged


def files(run: Watched) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in run.output.iterdir()}


def saved(run: Watched) -> list[tuple[int, str]]:
    folders = whole_folders(run.directory / layout.CHECKPOINTS)
    return [(one.step, one.kind.value) for folder in folders if (one := manifest_of(folder)) is not None]


def journal(summary: dict[str, Any]) -> list[dict[str, Any]]:
    return [entry for entry in summary["journal"] if entry["step"] > 0]


def replayed(folder: Path, entries: list[dict[str, Any]], **values: Any) -> Fits:
    """Return what a run ends with that has this journal from its beginning."""
    config = configured(**values)
    loop = loop_of(config, CPU)
    loop.journal += entries
    with Watched(folder) as run:
        fits = train(run, config, walmart(config), CPU, loop)
    assert fits is not None
    return fits


def same_weights(run: Watched, fits: Fits) -> bool:
    stored = load_file(run.output / "model.safetensors")
    return all(
        torch.equal(stored[f"network.{name}"], kept) for name, kept in fits.final.network.state_dict().items()
    )


@contextmanager
def little_memory(rows: int, from_call: int = 0) -> Iterator[list[int]]:
    """Let every network find no memory for more rows than these in training, after so many calls."""
    calls: list[int] = []

    def check(module: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        if isinstance(module, TCN) and module.training:
            calls.append(len(given[0]))
            if len(calls) > from_call and len(given[0]) > rows:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB.")

    handle = register_module_forward_pre_hook(check)
    try:
        yield calls
    finally:
        handle.remove()


def test_stopped_and_resumed_it_leaves_the_same_bytes(tmp_path: Path) -> None:
    config = configured(max_steps=6, micro_batch=3)
    whole, first = Watched(tmp_path / "whole"), Watched(tmp_path / "first", stop_at=2)
    summary = trained(whole, config)
    stopped = trained(first, config)
    assert stopped["stopped"] is True
    assert files(first) == {}
    assert saved(first) == [(2, CheckpointKind.STOP.value)]
    second = Watched(tmp_path / "second", stop_at=5, after=first)
    trained(second, config)
    third = Watched(tmp_path / "third", after=second)
    resumed = trained(third, config)
    assert files(third) == files(whole)
    assert {**resumed, "seconds": 0} == {**summary, "seconds": 0}
    assert [*first.logged, *second.logged, *third.logged] == whole.logged


def test_a_run_that_ended_while_it_evaluated_only_evaluates(tmp_path: Path) -> None:
    config = configured(max_steps=4, checkpoint_every=2)
    whole = Watched(tmp_path / "whole")
    trained(whole, config)
    assert saved(whole) == [(4, "final"), (2, "periodic")]
    again = Watched(tmp_path / "again", after=whole)
    trained(again, config)
    assert again.logged == []
    assert files(again) == files(whole)


def test_a_run_saves_by_the_clock(tmp_path: Path) -> None:
    run = Watched(tmp_path)
    trained(run, configured(max_steps=8, checkpoint_seconds=0.001))
    assert saved(run)[0] == (8, "final")
    assert len(saved(run)) > 1


def test_missing_memory_is_repaired_within_the_step(tmp_path: Path) -> None:
    """Steps 1 and 2 of both fits take 4 calls; from then on 2 rows are the most."""
    config = configured(max_steps=5)
    run = Watched(tmp_path / "repaired")
    with little_memory(rows=2, from_call=4) as calls:
        summary = trained(run, config)
    assert calls[4:7] == [8, 4, 2]
    assert journal(summary) == [
        {"step": 3, "name": "micro_batch", "value": 4, "why": "out of memory", "was": 8},
        {"step": 3, "name": "micro_batch", "value": 2, "why": "out of memory", "was": 4},
    ]
    assert json.loads((run.output / "model.json").read_text())["journal"] == summary["journal"]
    assert same_weights(run, replayed(tmp_path / "replayed", journal(summary), max_steps=5))
    assert not same_weights(run, replayed(tmp_path / "plain", [], max_steps=5))


def test_without_memory_for_one_row_the_run_fails_as_that(tmp_path: Path) -> None:
    with little_memory(rows=0), pytest.raises(torch.OutOfMemoryError):
        trained(Watched(tmp_path), configured())


def test_a_repair_between_attempts_is_in_the_journal(tmp_path: Path) -> None:
    """What the table declares repairable may be another value when the run goes on."""
    entry = find("forecast")
    assert entry.repairable == {
        RepairRole.BATCH: "batch_size",
        RepairRole.MICRO_BATCH: "micro_batch",
        RepairRole.LEARNING_RATE: "learning_rate",
    }
    assert set(entry.repairable.values()) <= set(config_model("forecast").model_fields)
    first = Watched(tmp_path / "first", stop_at=2)
    trained(first, configured(max_steps=5))
    second = Watched(tmp_path / "second", after=first)
    summary = trained(second, configured(max_steps=5, learning_rate=0.002, micro_batch=4))
    assert journal(summary) == [
        {"step": 3, "name": "micro_batch", "value": 4, "why": "given", "was": 8},
        {"step": 3, "name": "learning_rate", "value": 0.002, "why": "given", "was": 0.004},
    ]
    assert same_weights(second, replayed(tmp_path / "replayed", journal(summary), max_steps=5))


def test_a_checkpoint_of_another_seed_is_refused(tmp_path: Path) -> None:
    first = Watched(tmp_path / "first", stop_at=1)
    trained(first, configured())
    with pytest.raises(ValueError, match="saved with seed 1, this run has 2"):
        trained(Watched(tmp_path / "second", after=first), configured(seed=2))


def test_a_gradient_that_is_no_number_ends_the_run_before_the_weights_take_it(tmp_path: Path) -> None:
    def explode(module: torch.nn.Module, given: Any, found: Any) -> None:
        if isinstance(module, TCN) and module.training and found.requires_grad and run.logged:
            found.register_hook(lambda gradient: gradient * float("inf"))

    run = Watched(tmp_path)
    handle = register_module_forward_hook(explode)
    try:
        with pytest.raises(Diverged, match=r"the size of the gradient became (inf|nan) at step 2;") as caught:
            trained(run, configured(dropout=0.0))
    finally:
        handle.remove()
    assert caught.value.step == 2
    assert [step for step, _ in run.logged] == [1]
