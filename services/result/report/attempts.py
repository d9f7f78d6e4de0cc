"""What happened to a task between its start and its end: a row per attempt, with what was repaired after it.

Not here: how it looks (templates), who decides on repairs (the task service).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pydantic import TypeAdapter, ValidationError

from trainwright.contracts.attempt import AttemptDocument, Outcome
from trainwright.contracts.task import Repair, TaskDocument

_REPAIRS = TypeAdapter(list[Repair])

UNHEARD = "its worker was lost, or another attempt took its place"


@dataclass(frozen=True, slots=True)
class RepairRow:
    """What was done about an attempt's failure; ``changes`` are (parameter, old value, new value)."""

    action: str
    changes: list[tuple[str, Any, Any]]


@dataclass(frozen=True, slots=True)
class AttemptRow:
    """One attempt: where it ran, from which step, how it ended and why, and what was done about it."""

    number: int
    worker: str | None
    started_at: datetime | None
    began: str
    ended: str
    why: str
    repairs: list[RepairRow] = field(default_factory=list)


def repairs_of(task: TaskDocument | None, metadata: Mapping[str, Any]) -> list[Repair]:
    """Return what was repaired: as the task's owner says it, else as the bundle does."""
    if task is not None and task.repairs:
        return task.repairs
    try:
        return _REPAIRS.validate_python(metadata.get("repairs") or [])
    except ValidationError:
        return []


def attempt_rows(newest: int, attempts: Sequence[AttemptDocument], repairs: Sequence[Repair]) -> list[AttemptRow]:
    """Return a row for every attempt up to the newest; none when nothing but one attempt happened."""
    if newest <= 1 and not repairs:
        return []
    known = {attempt.attempt: attempt for attempt in attempts}
    return [
        _row(
            number, known.get(number), [one for one in repairs if one.attempt == number], is_last=number == newest
        )
        for number in range(1, newest + 1)
    ]


def resumed_at(attempts: Sequence[AttemptDocument]) -> list[int]:
    """Return the steps that attempts went on from, in order."""
    return sorted({attempt.resume_step for attempt in attempts if attempt.resume_step > 0})


def _row(number: int, attempt: AttemptDocument | None, repairs: Sequence[Repair], *, is_last: bool) -> AttemptRow:
    done = [_repair_row(repair) for repair in repairs]
    lost = next((repair.reason for repair in repairs if repair.reason), UNHEARD)
    if attempt is None:
        return AttemptRow(number, None, None, "–", "lost", lost, done)
    began = f"step {attempt.resume_step}" if attempt.resume_step else "the beginning"
    if attempt.outcome is None:
        ended, why = ("not heard yet", "") if is_last else ("lost", lost)
        return AttemptRow(number, attempt.worker_id, attempt.started_at, began, ended, why, done)
    ended = attempt.outcome.value + (f" at step {attempt.final_step}" if attempt.final_step is not None else "")
    failure = attempt.failure
    why = f"{failure.failure_class.value.replace('_', ' ')}: {failure.message}" if failure else ""
    if attempt.outcome is Outcome.COMPLETED:
        why = ""
    return AttemptRow(number, attempt.worker_id, attempt.started_at, began, ended, why, done)


def _repair_row(repair: Repair) -> RepairRow:
    changes = [(name, change.old, change.new) for name, change in repair.changes.items()]
    resume = f", go on from step {repair.resume_step}" if repair.resume_step else ""
    return RepairRow(f"{repair.action}{resume}", changes)
