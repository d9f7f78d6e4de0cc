"""What is done about each class of failure: actions, budgets, pauses, and what people are told."""

from datetime import timedelta
from typing import Any

import pytest

from services.task import domain, repair
from tests.unit.task_facts import LATER, NOW, a_running_task, again, at, changed, end, failed, saved
from trainwright.contracts.attempt import Outcome
from trainwright.contracts.failure import INFRASTRUCTURE, FailureClass
from trainwright.contracts.parameters import ChangedValue
from trainwright.contracts.task import TaskDocument, TaskPhase, TaskStatus

OUT_OF_MEMORY, DIVERGED, UNKNOWN = FailureClass.OUT_OF_MEMORY, FailureClass.DIVERGED, FailureClass.UNKNOWN
MICRO_AND_STEPS = {"micro_batch": "micro", "accumulate": "steps"}
BATCH_AND_MICRO = {"batch": "batch", "micro_batch": "micro"}


def declared(roles: dict[str, str], **parameters: Any) -> TaskDocument:
    return a_running_task(parameters=parameters, repairable=roles)


def test_every_class_has_a_rule_and_only_infrastructure_is_free_of_charge() -> None:
    assert set(repair.RULES) == set(FailureClass)
    assert {kind for kind, rule in repair.RULES.items() if not rule.charged} == INFRASTRUCTURE
    assert all(repair.RULES[kind].tries == 0 for kind in repair.NEVER_AGAIN)


@pytest.mark.parametrize("micro", range(1, 66))
@pytest.mark.parametrize("steps", [None, 1, 2, 3, 5])
def test_a_smaller_micro_batch_keeps_the_effective_one_exactly(micro: int, steps: int | None) -> None:
    task = failed(declared(MICRO_AND_STEPS, micro=micro, steps=steps), OUT_OF_MEMORY)
    if micro == 1:
        assert task.status is TaskStatus.FAILED
        assert task.reason == "broke (micro is 1 already)"
        return
    assert task.overrides["micro"] * task.overrides["steps"] == micro * (steps or 1)
    assert task.overrides["micro"] <= micro / 2
    assert micro % 2 or task.overrides["micro"] == micro // 2, "half of it, where that fits"


@pytest.mark.parametrize(
    ("batch", "micro", "smaller"), [(64, None, 32), (64, 32, 16), (64, 3, 2), (64, 2, 1), (7, None, 4)]
)
def test_a_recipe_that_splits_its_batch_needs_the_micro_batch_only(
    batch: int, micro: int | None, smaller: int
) -> None:
    task = failed(declared(BATCH_AND_MICRO, batch=batch, micro=micro), OUT_OF_MEMORY)
    assert task.overrides == {"micro": smaller}
    assert task.repairs[-1].changes == {"micro": ChangedValue(old=micro, new=smaller)}


def test_repairs_stack_up_and_are_told() -> None:
    first = failed(declared(MICRO_AND_STEPS, micro=64, steps=1), OUT_OF_MEMORY, 1200)
    assert (first.phase, first.not_before, first.retries_used) == (TaskPhase.WAITING_SLOTS, None, 1)
    assert first.reason == "attempt 1 ran out of memory; micro 64 → 32, steps 1 → 2, goes on from step 1200"
    second = failed(again(first), OUT_OF_MEMORY)
    assert second.overrides == {"micro": 16, "steps": 4}
    assert [one.attempt for one in second.repairs] == [1, 2]
    assert second.repairs[1].changes["micro"] == ChangedValue(old=32, new=16)
    assert second.repairs[1].resume_step == 1200
    assert second.config.parameters == {"micro": 64, "steps": 1}, "what was submitted stays as it is"


@pytest.mark.parametrize(
    ("roles", "parameters", "why"),
    [
        ({}, {"batch": 64}, "nothing is declared that may be made smaller"),
        ({"micro_batch": "micro"}, {"micro": 8}, "nothing is declared that may be made smaller"),
        (MICRO_AND_STEPS, {"micro": "auto", "steps": 1}, "micro is 'auto', no whole number of at least 1"),
        (MICRO_AND_STEPS, {"micro": 8, "steps": 0}, "steps is 0, no whole number of at least 1"),
        (MICRO_AND_STEPS, {"micro": True, "steps": 1}, "micro is True, no whole number of at least 1"),
        (MICRO_AND_STEPS, {"micro": None, "steps": 1}, "micro has no value that could be halved"),
    ],
)
def test_out_of_memory_is_final_when_nothing_can_be_made_smaller(
    roles: dict[str, str], parameters: dict[str, Any], why: str
) -> None:
    task = failed(declared(roles, **parameters), OUT_OF_MEMORY)
    assert (task.status, task.reason, task.retries_used) == (TaskStatus.FAILED, f"broke ({why})", 0)
    assert task.failure is not None
    if "declared" in why:
        assert "`repairable: {micro_batch: NAME, accumulate: NAME}`" in str(task.failure.hint)


def test_a_divergence_goes_back_before_it_with_half_the_rate() -> None:
    task = failed(declared({"learning_rate": "lr"}, lr=0.01), DIVERGED, 10, 20, 30, bad_step=25)
    assert [one.step for one in task.checkpoints] == [20, 10]
    assert task.overrides == {"lr": 0.005}
    assert task.reason == "attempt 1 diverged (broke); lr 0.01 → 0.005, goes on from step 20"
    assert task.not_before is None
    late = saved(1, 10, 20, 30)
    assert domain.reported(task, late, NOW) is None, "what was dropped does not come back"
    second = changed(domain.reported(again(task), saved(2, 22, resume_step=20), NOW))
    assert [(one.attempt, one.step) for one in second.checkpoints] == [(2, 22), (1, 20), (1, 10)]


def test_a_checkpoint_whose_first_step_is_bad_is_not_gone_on_from_again() -> None:
    task = failed(declared({"learning_rate": "lr"}, lr=0.01), DIVERGED, 10, 20, bad_step=21)
    assert task.checkpoints[0].step == 20
    third = failed(again(task), DIVERGED, bad_step=21, resume_step=20)
    assert [one.step for one in third.checkpoints] == [10]
    assert third.overrides == {"lr": 0.0025}
    fresh = failed(declared({"learning_rate": "lr"}, lr=0.01), DIVERGED, bad_step=1)
    assert fresh.reason.endswith("starts from the beginning")
    unknown = failed(declared({"learning_rate": "lr"}, lr=0.01), DIVERGED, 10, 20)
    assert len(unknown.checkpoints) == 2, "where it began is not known"


@pytest.mark.parametrize(
    ("roles", "rate", "why"),
    [
        ({}, 0.1, "not declared as something that may be changed"),
        ({"learning_rate": "lr"}, "auto", "lr is 'auto', no number above 0"),
        ({"learning_rate": "lr"}, 0, "lr is 0, no number above 0"),
        ({"learning_rate": "lr"}, None, "lr is None, no number above 0"),
    ],
)
def test_a_divergence_is_final_without_a_rate_to_halve(roles: dict[str, str], rate: Any, why: str) -> None:
    task = failed(declared(roles, lr=rate), DIVERGED)
    assert task.status is TaskStatus.FAILED
    assert why in task.reason
    if not roles:
        assert task.failure is not None
        assert "`repairable: {learning_rate: NAME}`" in str(task.failure.hint)


@pytest.mark.parametrize(
    ("kind", "delay", "avoided"),
    [
        (FailureClass.HUNG, 0, []),
        (FailureClass.UNKNOWN, 10, []),
        (FailureClass.ENVIRONMENT_ERROR, 10, ["worker-1"]),
    ],
)
def test_what_is_tried_again_is_charged(kind: FailureClass, delay: int, avoided: list[str]) -> None:
    task = failed(a_running_task(), kind, 50)
    assert (task.status, task.retries_used, task.losses) == (TaskStatus.PENDING, 1, 0)
    assert task.phase is (TaskPhase.BACKING_OFF if delay else TaskPhase.WAITING_SLOTS)
    assert task.not_before == (LATER + timedelta(seconds=delay) if delay else None)
    assert task.avoid_workers == avoided
    assert task.repairs[0].resume_step == 50
    assert task.reason.endswith("goes on from step 50 in 10 s" if delay else "goes on from step 50")


@pytest.mark.parametrize("kind", sorted(INFRASTRUCTURE))
def test_infrastructure_is_not_charged_and_does_not_wait(kind: FailureClass) -> None:
    task = failed(a_running_task(max_retries=0), kind)
    assert (task.phase, task.retries_used, task.losses) == (TaskPhase.WAITING_SLOTS, 0, 1)
    assert task.avoid_workers == (["worker-1"] if kind is FailureClass.NODE_BAD else [])
    assert task.failure is None, "it is no failure of the task's"


@pytest.mark.parametrize("kind", [FailureClass.USER_ERROR, FailureClass.DATA_ERROR, FailureClass.TIMED_OUT])
def test_what_another_try_cannot_mend_ends_at_once(kind: FailureClass) -> None:
    task = failed(a_running_task(max_retries=3), kind)
    assert (task.status, task.reason, task.retries_used) == (TaskStatus.FAILED, "broke", 0)


def fails_until_the_end(kind: FailureClass, **config: Any) -> TaskDocument:
    task = a_running_task(**config)
    while True:
        task = failed(task, kind)
        if task.status is TaskStatus.FAILED:
            return task
        task = again(task)


@pytest.mark.parametrize(
    ("kind", "config", "attempts", "why"),
    [
        (UNKNOWN, {}, 4, "tried again 3 times, which is `max_retries`"),
        (UNKNOWN, {"max_retries": 1}, 2, "tried again once, which is `max_retries`"),
        (UNKNOWN, {"max_retries": 0}, 1, "`max_retries` is 0"),
        (UNKNOWN, {"retry": {"unknown": {"max": 1}}}, 2, "tried again once after unknown, which is its limit"),
        (UNKNOWN, {"retry": {"unknown": {"max": 9}}}, 4, "tried again 3 times, which is `max_retries`"),
        (UNKNOWN, {"retry": {"unknown": {"max": 0}}}, 1, ""),
        (UNKNOWN, {"retry": {"hung": {"max": 0}}}, 4, "tried again 3 times, which is `max_retries`"),
        (UNKNOWN, {"retry_on": ["hung"]}, 1, "`retry_on` does not name unknown"),
        (UNKNOWN, {"retry_on": ["unknown"]}, 4, "tried again 3 times, which is `max_retries`"),
        (UNKNOWN, {"retry_on": []}, 1, "`retry_on` does not name unknown"),
        (
            FailureClass.DATA_ERROR,
            {"retry": {"data_error": {"max": 2}}},
            3,
            "tried again 2 times after data_error",
        ),
        (FailureClass.DATA_ERROR, {"retry_on": ["data_error"]}, 4, "tried again 3 times, which is `max_retries`"),
        (FailureClass.USER_ERROR, {"retry": {"user_error": {"max": 2}}}, 1, ""),
        (FailureClass.WORKER_LOST, {"retry_on": []}, 21, "lost 21 times without a new checkpoint"),
        (FailureClass.WORKER_LOST, {"retry": {"worker_lost": {"max": 2}}}, 3, "tried again 2 times after"),
    ],
)
def test_budgets(kind: FailureClass, config: dict[str, Any], attempts: int, why: str) -> None:
    task = fails_until_the_end(kind, **config)
    assert task.attempt == attempts
    assert task.reason.startswith(f"broke ({why}" if why else "broke")
    assert task.retries_used == (0 if kind in INFRASTRUCTURE else attempts - 1)


def test_a_pause_between_tries_is_as_the_document_says() -> None:
    task = failed(a_running_task(retry={"hung": {"delay": "30s"}}), FailureClass.HUNG)
    assert task.not_before == LATER + timedelta(seconds=30)
    task = failed(a_running_task(retry={"unknown": {"delay": 0}}), UNKNOWN)
    assert (task.phase, task.not_before) == (TaskPhase.WAITING_SLOTS, None)


def test_losses_that_bring_it_forward_do_not_end_it() -> None:
    task = a_running_task()
    for number in range(1, 61):
        step = 10 * number
        document = end(number, Outcome.INTERRUPTED, FailureClass.PREEMPTED, step, resume_step=step - 10)
        task = again(changed(domain.ended(task, document, NOW)))
    assert (task.losses, task.retries_used, len(task.repairs)) == (60, 0, repair.REPAIRS_KEPT)
    for _ in range(repair.LOSS_CAP):
        task = again(changed(domain.lost(task, at(task.attempt, "silent"), NOW)))
    failed_task = changed(domain.lost(task, at(task.attempt, "silent"), NOW))
    assert failed_task.status is TaskStatus.FAILED
    assert failed_task.reason == "silent (lost 21 times without a new checkpoint)"
    assert failed_task.failure is not None
    assert failed_task.failure.failure_class is FailureClass.WORKER_LOST
    assert "Look at the workers" in str(failed_task.failure.hint)


def test_the_newest_avoided_workers_are_kept() -> None:
    task = a_running_task(max_retries=100)
    for number in range(12):
        moved = task.model_copy(update={"worker_id": f"worker-{number}"})
        document = end(task.attempt, Outcome.FAILED, FailureClass.ENVIRONMENT_ERROR)
        named = document.model_copy(update={"worker_id": f"worker-{number}"})
        task = again(changed(domain.ended(moved, named, NOW)))
    assert task.avoid_workers == [f"worker-{number}" for number in range(2, 12)]


def test_a_long_message_is_told_in_short() -> None:
    document = end(1, Outcome.FAILED, UNKNOWN)
    assert document.failure is not None
    failure = document.failure.model_copy(update={"message": "first line\n" + "x" * 5000})
    task = changed(domain.ended(a_running_task(), document.model_copy(update={"failure": failure}), NOW))
    assert task.reason == "attempt 1 failed (first line); starts from the beginning in 10 s"
