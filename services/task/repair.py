"""What is done about a failed attempt: the policy by class, as a table and a pure function. No I/O, no clock.

Only parameters that the recipe or the document declares are changed; nothing is guessed. Not here: what a task
becomes by it (``domain.py``), and how a failure is classified (the worker).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from services.task.checkpoints import going_on, good, newest_step
from trainwright.contracts.failure import INFRASTRUCTURE, Failure, FailureClass
from trainwright.contracts.parameters import ChangedValue
from trainwright.contracts.task import Repair, TaskDocument
from trainwright.contracts.task_config import RepairRole

LOSS_CAP = 20
"""Losses of infrastructure, one after the other without a new checkpoint, before a task is given up."""

REPAIRS_KEPT = 50
AVOIDED_KEPT = 10
MESSAGE_SHOWN = 300

BATCH, MICRO, ACCUMULATE = RepairRole.BATCH, RepairRole.MICRO_BATCH, RepairRole.ACCUMULATE
RATE = RepairRole.LEARNING_RATE

Changes = dict[str, ChangedValue]


class CannotMend(Exception):
    """Nothing can be changed: why, and what to do about it."""

    def __init__(self, why: str, hint: str | None = None) -> None:
        super().__init__(why)
        self.why = why
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Parameters:
    """A task's parameters as its last attempt had them, and what of them may be changed."""

    names: Mapping[RepairRole, str]
    values: Mapping[str, Any]

    def whole(self, role: RepairRole) -> int | None:
        """Return the value of a role; None when it has none.

        Raises:
            CannotMend: It is no whole number of at least 1.
        """
        value = self.values.get(self.names[role]) if role in self.names else None
        if value is None or (type(value) is int and value >= 1):
            return value
        raise CannotMend(f"{self.names[role]} is {value!r}, no whole number of at least 1")

    def changed(self, role: RepairRole, new: float) -> Changes:
        """Return the change of one role."""
        name = self.names[role]
        return {name: ChangedValue(old=self.values.get(name), new=new)}


def _smaller_batch(parameters: Parameters) -> Changes:
    """Halve what is computed at a time; what an optimiser's step sees stays exactly the same."""
    names = parameters.names
    if MICRO not in names or not {ACCUMULATE, BATCH} & names.keys():
        raise CannotMend(
            "nothing is declared that may be made smaller",
            "Trainwright makes the batch smaller by itself once the document names its parameters:"
            " `repairable: {micro_batch: NAME, accumulate: NAME}`.",
        )
    micro = parameters.whole(MICRO) or parameters.whole(BATCH)
    if micro is None:
        raise CannotMend(f"{names[MICRO]} has no value that could be halved")
    if micro == 1:
        raise CannotMend(
            f"{names[MICRO]} is 1 already", "Use a smaller model or shorter inputs, or ask for more memory."
        )
    if ACCUMULATE not in names:  # the recipe splits its batch by itself
        return parameters.changed(MICRO, (micro + 1) // 2)
    effective = micro * (parameters.whole(ACCUMULATE) or 1)
    smaller = next(size for size in range(micro // 2, 0, -1) if effective % size == 0)
    return parameters.changed(MICRO, smaller) | parameters.changed(ACCUMULATE, effective // smaller)


def _smaller_rate(parameters: Parameters) -> Changes:
    """Halve the learning rate."""
    name = parameters.names.get(RATE)
    if name is None:
        raise CannotMend(
            "the learning rate is not declared as something that may be changed",
            "Trainwright lowers the learning rate by itself once the document names its parameter:"
            " `repairable: {learning_rate: NAME}`.",
        )
    rate = parameters.values.get(name)
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not rate > 0:
        raise CannotMend(f"{name} is {rate!r}, no number above 0")
    return parameters.changed(RATE, rate * 0.5)


@dataclass(frozen=True, slots=True)
class Rule:
    """What is done about one class of failure.

    ``said`` and ``action`` are words for people; ``tries`` is the class's own limit where the document names none
    (None: as many as `max_retries`); ``delay`` is in seconds.
    """

    said: str
    action: str
    tries: int | None = None
    delay: float = 0
    charged: bool = True
    avoids_worker: bool = False
    explains: bool = True
    mend: Callable[[Parameters], Changes] | None = None


RULES: Mapping[FailureClass, Rule] = {
    FailureClass.OUT_OF_MEMORY: Rule(
        "ran out of memory", "halve the micro-batch", explains=False, mend=_smaller_batch
    ),
    FailureClass.DIVERGED: Rule("diverged", "go back, halve the learning rate", mend=_smaller_rate),
    FailureClass.HUNG: Rule("hung", "start again"),
    FailureClass.TIMED_OUT: Rule("ran out of time", "end it", tries=0),
    FailureClass.WORKER_LOST: Rule("was lost", "go on elsewhere", charged=False),
    FailureClass.PREEMPTED: Rule("was preempted", "go on at the next place", charged=False),
    FailureClass.NODE_BAD: Rule("had a bad worker", "go on elsewhere", charged=False, avoids_worker=True),
    FailureClass.DATA_ERROR: Rule("could not use its data", "start again", tries=0),
    FailureClass.USER_ERROR: Rule("failed by its own code", "end it", tries=0),
    FailureClass.ENVIRONMENT_ERROR: Rule(
        "found its worker unfit", "start again elsewhere", delay=10, avoids_worker=True
    ),
    FailureClass.UNKNOWN: Rule("failed", "start again", delay=10),
}

NEVER_AGAIN = {
    FailureClass.USER_ERROR: "the same code fails the same way",
    FailureClass.TIMED_OUT: "say `on_timeout: pause` and resume it for the same time again",
}
"""Classes that no document can have tried again, and why."""


@dataclass(frozen=True, slots=True)
class Again:
    """Another attempt follows: what was repaired, what of the document changes by it, after which pause."""

    repair: Repair
    fields: Mapping[str, Any]
    delay: timedelta


@dataclass(frozen=True, slots=True)
class GivenUp:
    """No attempt follows: the failure, with what to do about it, and the reason for people."""

    failure: Failure
    reason: str


def after(task: TaskDocument, failure: Failure, now: datetime, *, resumed_from: int = 0) -> Again | GivenUp:
    """Return what follows a failure of a task's newest attempt, which went on from step ``resumed_from``."""
    rule = RULES[failure.failure_class]
    checkpoints = task.checkpoints
    if failure.failure_class is FailureClass.DIVERGED:
        checkpoints = good(checkpoints, failure.bad_step, resumed_from)
    step = newest_step(checkpoints)
    try:
        _check_budget(task, failure.failure_class, step)
        parameters = Parameters(task.config.repairable, {**task.config.parameters, **task.overrides})
        changes = rule.mend(parameters) if rule.mend else {}
    except CannotMend as error:
        hint = " ".join(text for text in (failure.hint, error.hint) if text) or None
        reason = f"{failure.message} ({error.why})" if error.why else failure.message
        return GivenUp(failure.model_copy(update={"hint": hint}), reason)
    wish = task.config.retry.get(failure.failure_class)
    seconds = rule.delay if wish is None or wish.delay is None else wish.delay
    done = Repair(
        attempt=task.attempt,
        failure_class=failure.failure_class,
        action=rule.action,
        changes=changes,
        resume_step=step,
        reason=_in_words(task, failure, rule, changes, step),
        at=now,
    )
    fields: dict[str, Any] = {
        "repairs": [*task.repairs, done][-REPAIRS_KEPT:],
        "checkpoints": checkpoints,
        "overrides": {**task.overrides, **{name: value.new for name, value in changes.items()}},
    }
    if rule.charged:
        fields |= {"retries_used": task.retries_used + 1, "failure": failure}
    else:
        fields["losses"] = task.losses + 1
    if rule.avoids_worker and task.worker_id is not None:
        others = [worker for worker in task.avoid_workers if worker != task.worker_id]
        fields["avoid_workers"] = [*others, task.worker_id][-AVOIDED_KEPT:]
    return Again(done, fields, timedelta(seconds=seconds))


def time_again(task: TaskDocument) -> dict[str, Any]:
    """Return what of a paused task changes when it is resumed after its time was used up."""
    timed_out = task.failure is not None and task.failure.failure_class is FailureClass.TIMED_OUT
    used_up = task.config.timeout is not None and task.ran_seconds >= task.config.timeout
    return {"ran_seconds": 0.0, "failure": None if timed_out else task.failure} if timed_out or used_up else {}


def _check_budget(task: TaskDocument, kind: FailureClass, step: int | None) -> None:
    """Refuse what the policy or the document does not allow.

    Raises:
        CannotMend: There is no other try.
    """
    config, rule = task.config, RULES[kind]
    wish = config.retry.get(kind)
    own = wish.max if wish is not None else None
    if kind in NEVER_AGAIN:
        raise CannotMend("")
    if own is None and rule.charged:
        own = None if kind in (config.retry_on or ()) else rule.tries
    used = sum(1 for one in task.repairs if one.failure_class is kind)
    if own is not None and used >= own:
        raise CannotMend(f"tried again {_times(used)} after {kind}, which is its limit" if own else "")
    if not rule.charged:
        if _in_vain(task, step) >= LOSS_CAP:
            raise CannotMend(
                f"lost {LOSS_CAP + 1} times without a new checkpoint",
                "Look at the workers: this task loses one after the other.",
            )
        return
    if config.retry_on is not None and kind not in config.retry_on:
        raise CannotMend(f"`retry_on` does not name {kind}")
    if task.retries_used >= config.max_retries:
        used = task.retries_used
        raise CannotMend(f"tried again {_times(used)}, which is `max_retries`" if used else "`max_retries` is 0")


def _in_vain(task: TaskDocument, step: int | None) -> int:
    """Return how many losses in a row, up to now, went on from the step that is the newest still."""
    count = 0
    for one in reversed(task.repairs):
        if one.failure_class not in INFRASTRUCTURE or one.resume_step != step:
            break
        count += 1
    return count if step is None else count - 1  # the first of them had brought it to that step


def _in_words(task: TaskDocument, failure: Failure, rule: Rule, changes: Changes, step: int | None) -> str:
    said = f"attempt {task.attempt} {rule.said}"
    said += f" ({_first_line(failure.message)})" if rule.explains else ""
    changed = [f"{name} {_shown(value.old)} → {_shown(value.new)}" for name, value in changes.items()]
    return f"{said}; {', '.join([*changed, going_on(step)])}"


def _first_line(text: str) -> str:
    return text.partition("\n")[0][:MESSAGE_SHOWN]


def _shown(value: Any) -> str:
    return "unset" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
