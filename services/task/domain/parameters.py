"""Parameters that change while a task exists: revisions, and what runs answer about them. Pure.

What was asked for is in the task's overrides at once, so that repairs and the next attempt begin from it. The list
of changes says from which step each holds: a run that goes on from before takes it over at that step again.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from services.task.domain.changes import Change, note
from trainwright.contracts.parameters import ChangedValue, ChangeState, ParameterAnswer, ParameterChange
from trainwright.contracts.task import TaskDocument, TaskParametersChanged
from trainwright.documents.changes import content_hash

KEPT = 50
"""Changes that a task's document carries; older ones hold from the beginning, should a run begin anew."""


def current(task: TaskDocument) -> dict[str, Any]:
    """Return a task's parameters with every repair and change."""
    return {**task.config.parameters, **task.overrides}


def hash_of(task: TaskDocument) -> str:
    """Return the content hash of a task's parameters as they are now."""
    return content_hash(current(task))


def is_waiting(task: TaskDocument) -> bool:
    """Return whether a run is still to answer about a change."""
    return any(one.state is ChangeState.REQUESTED for one in task.parameter_changes)


def requested(
    task: TaskDocument, values: Mapping[str, Any], *, actor: str, confirmed_by: str | None, why: str, now: datetime
) -> Change:
    """Change parameters: the run takes them over at its next step, or the next run begins with them."""
    before = current(task)
    changes = {name: ChangedValue(old=before.get(name), new=value) for name, value in values.items()}
    revision = task.parameter_revision + 1
    overrides = {**task.overrides, **values}
    asked = ParameterChange(
        revision=revision,
        changes=changes,
        actor=actor,
        confirmed_by=confirmed_by,
        reason=why,
        at=now,
        config_hash=content_hash({**task.config.parameters, **overrides}),
    )
    fields = {
        "overrides": overrides,
        "parameter_revision": revision,
        "parameter_changes": [*task.parameter_changes, asked][-KEPT:],
    }
    return Change(note(task, now, **fields), TaskParametersChanged, f"parameters changed: {why}", changes)


def answered(task: TaskDocument, attempt: int, answers: Sequence[ParameterAnswer]) -> dict[str, Any]:
    """Return what of a task changes by a run's answers: nothing, when they are known."""
    said = {answer.revision: answer for answer in answers}
    changes, overrides = [], task.overrides
    for one in task.parameter_changes:
        answer = said.get(one.revision)
        if answer is None or one.state is not ChangeState.REQUESTED:
            changes.append(one)
        elif answer.error is None:
            news = {"state": ChangeState.APPLIED, "attempt": attempt, "step": answer.step}
            changes.append(one.model_copy(update=news))
        else:
            news = {"state": ChangeState.REJECTED, "attempt": attempt, "error": answer.error}
            changes.append(one.model_copy(update=news))
            overrides = _put_back(task, overrides, one)
    if changes == task.parameter_changes:
        return {}
    return {"parameter_changes": changes, "overrides": overrides}


def closed(task: TaskDocument) -> list[ParameterChange]:
    """Return the changes of a task that is over: what no run has answered is answered by that."""
    over = {"state": ChangeState.REJECTED, "error": "the task was over before a run could take it over"}
    return [
        one.model_copy(update=over) if one.state is ChangeState.REQUESTED else one
        for one in task.parameter_changes
    ]


def told(before: Sequence[ParameterChange], after: Sequence[ParameterChange]) -> str:
    """Return what runs have answered meanwhile, in words for the history."""
    known = {one.revision: one for one in before}
    words = []
    for one in after:
        if one.state is ChangeState.REQUESTED or known.get(one.revision) == one:
            continue
        names = ", ".join(one.changes)
        did = f"holds from step {one.step}" if one.state is ChangeState.APPLIED else f"was rejected: {one.error}"
        words.append(f"revision {one.revision} of the parameters ({names}) {did}")
    return "; ".join(words)


def _put_back(task: TaskDocument, overrides: Mapping[str, Any], change: ParameterChange) -> dict[str, Any]:
    """Return the overrides without a change, where nothing has changed the value since."""
    result = dict(overrides)
    for name, value in change.changes.items():
        if name not in result or result[name] != value.new:
            continue
        if name in task.config.parameters and task.config.parameters[name] == value.old:
            del result[name]
        else:
            result[name] = value.old
    return result
