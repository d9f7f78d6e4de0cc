"""Lightning's Trainer through its adapter: killed and paused runs end as one that nobody touched."""

import ast
from pathlib import Path

import pytest

from tests.integration.framework_runs import Runs
from trainwright.contracts.checkpoint import CheckpointKind
from trainwright.training import layout
from trainwright.training.checkpoints import manifest_of, whole_folders


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    runs = Runs(tmp_path_factory.mktemp("lightning"), "tests.integration.lightning_run")
    runs.add("straight")
    for name, save, kill in (("inside", 4, 6), ("border", 7, 9), ("late", 5, 18)):
        runs.add(name, save=save, kill_at=kill)
        runs.add(f"{name}-2", after=name)
    runs.add("steps", max_steps=17)
    runs.add("steps-border", max_steps=17, save=7, kill_at=9)
    runs.add("steps-border-2", after="steps-border", max_steps=17)
    runs.add("steps-over", after="steps", max_steps=17)
    runs.add("paused", pause_at=10)
    runs.add("paused-2", after="paused", pause_at=14)
    runs.add("paused-3", after="paused-2")
    runs.add("forgot", after="inside", forget=True)
    runs.add("smaller", after="inside", micro_batch=2, accumulate=4)
    runs.add("uneven", after="inside", micro_batch=2, accumulate=2)
    runs.add("slower", after="inside", rate=0.025)
    runs.add("refusals", entry="refusals")
    runs.go()
    return runs


@pytest.mark.parametrize("name", ["inside", "border", "late"])
def test_a_killed_run_ends_the_same(runs: Runs, name: str) -> None:
    assert runs.code(name) == -9, runs.said(name)
    assert runs.left(f"{name}-2") == runs.left("straight")
    assert runs.history(name, f"{name}-2") == runs.points("straight")


def test_a_run_that_counts_steps_instead_of_epochs_ends_the_same(runs: Runs) -> None:
    assert runs.left("steps-border-2") == runs.left("steps") == runs.left("steps-over")
    assert runs.history("steps-border", "steps-border-2") == runs.points("steps")
    assert runs.points("steps-over") == []


def test_a_run_paused_inside_an_epoch_and_at_its_end_ends_the_same(runs: Runs) -> None:
    assert (runs.newest("paused").step, runs.newest("paused").kind) == (10, CheckpointKind.STOP)
    assert (runs.newest("paused-2").step, runs.newest("paused-2").kind) == (14, CheckpointKind.STOP)
    assert runs.left("paused-3") == runs.left("straight")
    assert runs.history("paused", "paused-2", "paused-3") == runs.points("straight")


def test_a_run_that_forgets_the_random_generators_is_found(runs: Runs) -> None:
    assert runs.left("forgot") != runs.left("straight")
    assert runs.history("inside", "forgot") != runs.points("straight")


def test_there_are_no_files_of_lightning(runs: Runs) -> None:
    left = runs.files("straight") | runs.files("paused") | runs.files("refusals")
    assert {Path(name).suffix for name in left} <= {".json", ".safetensors", ".seg", ".lock", ""}
    assert not any((runs.folder("straight") / layout.WORK).iterdir())


def test_the_best_checkpoint_is_known_by_the_metric_of_its_own_step(runs: Runs) -> None:
    folders = whole_folders(runs.folder("border-2") / layout.CHECKPOINTS)
    scores = {found.step: found.score for folder in folders if (found := manifest_of(folder))}
    assert any(score is not None for score in scores.values()), scores


def test_half_the_micro_batch_and_twice_the_accumulation_go_on_at_the_same_place(runs: Runs) -> None:
    begun = runs.newest("inside").step * 8
    assert runs.code("smaller") == 0, runs.said("smaller")
    assert runs.notes("smaller")[: 50 - begun] == runs.notes("straight")[begun:50]
    assert runs.points("smaller")[-1][:2] == (21, 21)


def test_another_effective_batch_is_refused(runs: Runs) -> None:
    assert runs.code("uneven") == 1
    assert "a step: 2 batches of 4, now 2 of 2; change batch_size and" in runs.said("uneven")


def test_half_the_learning_rate_halves_the_rest_of_the_schedule(runs: Runs) -> None:
    def rates(name: str) -> dict[int, float]:
        found = [(step, dict(ast.literal_eval(values))) for step, _, values in runs.points(name)]
        return {step: values["rate"] for step, values in found if "rate" in values}

    before, after = rates("straight"), rates("slower")
    assert len(after) > 3
    assert all(after[step] == pytest.approx(before[step] / 2) for step in after)


def test_what_cannot_be_resumed_is_refused_with_the_fix(runs: Runs) -> None:
    found = runs.notes("refusals")
    assert found["no trainer"].startswith("TypeError: resumable() takes pytorch_lightning")
    assert 'mode is "min" or "max"' in found["mode"]
    assert "leave enable_checkpointing out" in found["enable_checkpointing"]
    assert "leave ModelCheckpoint out" in found["callback"]
    assert "set devices=1" in found["devices"]
    assert "the run knows the checkpoint" in found["ckpt_path"]
    assert "DataLoader with an IterableDataset, cannot go on inside an epoch" in found["iterable"]
    assert "the run saves its checkpoints itself" in found["save_checkpoint"]
    assert "a run has one fit()" in found["second fit"]
    assert "nothing is unpickled" in found["test"]
