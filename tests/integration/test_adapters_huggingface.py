"""Hugging Face's Trainer through its adapter: killed and paused runs end as one that nobody touched."""

import ast
from pathlib import Path

import pytest

from tests.integration.framework_runs import Runs
from trainwright.contracts.checkpoint import CheckpointKind
from trainwright.training import layout
from trainwright.training.checkpoints import Stored, whole_folders


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    runs = Runs(tmp_path_factory.mktemp("huggingface"), "tests.integration.huggingface_run")
    runs.add("straight")
    for name, save, kill in (("inside", 4, 6), ("border", 7, 9), ("late", 5, 18)):
        runs.add(name, save=save, kill_at=kill)
        runs.add(f"{name}-2", after=name)
    runs.add("paused", pause_at=10)
    runs.add("paused-2", after="paused", pause_at=14)
    runs.add("paused-3", after="paused-2")
    runs.add("complete", after="straight")
    runs.add("forgot", after="inside", forget=True)
    runs.add("smaller", after="inside", micro_batch=2, accumulate=4)
    runs.add("uneven", after="inside", micro_batch=2, accumulate=2)
    runs.add("slower", after="inside", rate=0.025)
    runs.add("lora", entry="lora")
    runs.add("lora-half", entry="lora", save_every=17, epochs=3, kill_at=20)
    runs.add("lora-half-2", after="lora-half", entry="lora")
    runs.add("other-base", after="lora-half", entry="lora", base_seed=6)
    runs.add("refusals", entry="refusals")
    runs.go()
    return runs


@pytest.mark.parametrize("name", ["inside", "border", "late"])
def test_a_killed_run_ends_the_same(runs: Runs, name: str) -> None:
    assert runs.code(name) == -9, runs.said(name)
    assert runs.left(f"{name}-2") == runs.left("straight")
    assert runs.history(name, f"{name}-2") == runs.points("straight")


def test_a_run_paused_inside_an_epoch_and_at_its_end_ends_the_same(runs: Runs) -> None:
    assert (runs.newest("paused").step, runs.newest("paused").kind) == (10, CheckpointKind.STOP)
    assert (runs.newest("paused-2").step, runs.newest("paused-2").kind) == (14, CheckpointKind.STOP)
    assert runs.left("paused-3") == runs.left("straight")
    assert runs.history("paused", "paused-2", "paused-3") == runs.points("straight")


def test_a_run_that_was_over_stays_so(runs: Runs) -> None:
    assert runs.newest("straight").kind is CheckpointKind.FINAL
    assert runs.left("complete") == runs.left("straight")
    assert runs.points("complete") == []


def test_a_run_that_forgets_the_random_generators_is_found(runs: Runs) -> None:
    assert runs.left("forgot") != runs.left("straight")
    assert runs.history("inside", "forgot") != runs.points("straight")


def test_there_are_no_files_of_the_trainer(runs: Runs) -> None:
    left = runs.files("straight") | runs.files("lora") | runs.files("paused-2")
    assert {Path(name).suffix for name in left} == {".json", ".safetensors", ".seg", ".lock", ""}
    assert not left & {"trainer_state.json", "config.json", "adapter_config.json", "adapter_model.safetensors"}
    assert not any((runs.folder("straight") / layout.WORK / "unused").iterdir())


def test_the_best_checkpoint_is_known_by_the_metric(runs: Runs) -> None:
    scores = [
        verified.manifest.score
        for folder in whole_folders(runs.folder("straight") / layout.CHECKPOINTS)
        if (verified := Stored(folder)).manifest.step % 3 == 0
    ]
    assert scores
    assert all(score is not None for score in scores)


def test_half_the_micro_batch_and_twice_the_accumulation_go_on_at_the_same_place(runs: Runs) -> None:
    begun = runs.newest("inside").step * 8
    assert runs.code("smaller") == 0, runs.said("smaller")
    assert runs.notes("smaller")[: 50 - begun] == runs.notes("straight")[begun:50]


def test_another_effective_batch_is_refused(runs: Runs) -> None:
    assert runs.code("uneven") == 1
    assert "effective batch: 8 when the checkpoint was saved, 4 now; when you change" in runs.said("uneven")


def test_half_the_learning_rate_halves_the_rest_of_the_schedule(runs: Runs) -> None:
    def rates(name: str) -> dict[int, float]:
        found = [(step, dict(ast.literal_eval(values))) for step, _, values in runs.points(name)]
        return {step: values["learning_rate"] for step, values in found if "learning_rate" in values}

    before, after = rates("straight"), rates("slower")
    assert len(after) > 3
    # The first point is logged with the rate that its step was made with.
    assert all(after[step] == pytest.approx(before[step] / 2) for step in after)


def test_a_fine_tuned_adapter_ends_the_same_and_its_base_is_not_saved(runs: Runs) -> None:
    assert runs.left("lora-half-2") == runs.left("lora")
    assert runs.history("lora-half", "lora-half-2") == runs.points("lora")
    model = Stored(whole_folders(runs.folder("lora") / layout.CHECKPOINTS)[0])["model"]
    assert model
    assert all("lora_" in name for name in model)


def test_another_base_model_is_refused(runs: Runs) -> None:
    assert runs.code("other-base") == 1
    assert "the base model's weights are not those that this run began with" in runs.said("other-base")


def test_what_cannot_be_resumed_is_refused_with_the_fix(runs: Runs) -> None:
    found = runs.notes("refusals")
    arguments = ("ignore_data_skip", "auto_find_batch_size", "save_only_model", "enable_jit_checkpoint")
    for name in (*arguments, "load_best_model_at_end"):
        assert found[name].startswith(f"ValueError: TrainingArguments({name}=True) does not work"), found[name]
    assert "the run knows the checkpoint" in found["resume_from_checkpoint"]
    assert "make a task of each trial" in found["trial"]
    assert found["no trainer"].startswith("TypeError: resumable() takes transformers.Trainer")
    assert "should_epoch_stop" in found["should_epoch_stop"]
    assert "a run has one train()" in found["second train"]
