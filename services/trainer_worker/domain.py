"""One worker's attempts: their states, and the requests to end them. Pure: no I/O, no clock.

`accepted → running → ended → reported`: a command was kept; a process runs; it is over; everything that it
had to say is published and so is its ending. `lost`: another incarnation's, of which nothing is left.
Not here: what an ending means (`verdict.py`).
"""

from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic import ValidationError

from trainwright.contracts.attempt import AttemptDocument, Outcome
from trainwright.contracts.base import Contract, JsonObject, Number, Sha256, Timestamp
from trainwright.contracts.checkpoint import Checkpoint
from trainwright.contracts.failure import Failure, FailureClass
from trainwright.contracts.parameters import ParameterAnswer, ParameterChange
from trainwright.contracts.queue import Member, Rendezvous
from trainwright.contracts.resource import Slots
from trainwright.contracts.task import Repair, StopKind
from trainwright.contracts.task_config import TaskConfig
from trainwright.contracts.worker import AttemptRef

LATEST_NAMES = 200


class AttemptState(StrEnum):
    """Where an attempt stands on this worker."""

    ACCEPTED = "accepted"
    RUNNING = "running"
    ENDED = "ended"
    REPORTED = "reported"
    LOST = "lost"


LIVE = (AttemptState.ACCEPTED, AttemptState.RUNNING, AttemptState.ENDED)


class StopCause(StrEnum):
    """Why this worker ends an attempt: the scheduler's kinds, its own, and what it saw of the run."""

    PAUSE = StopKind.PAUSE.value
    CANCEL = StopKind.CANCEL.value
    PREEMPT = StopKind.PREEMPT.value
    FENCED = "fenced"
    WORKER_STOPS = "worker_stops"
    HUNG = FailureClass.HUNG.value
    DIVERGED = FailureClass.DIVERGED.value
    TIMED_OUT = FailureClass.TIMED_OUT.value
    IDLE = "idle"


SEEN_ILL = frozenset({StopCause.HUNG, StopCause.DIVERGED, StopCause.TIMED_OUT})
"""What the worker itself found out about a run."""

_RANKS = {
    StopCause.WORKER_STOPS: 0,
    StopCause.IDLE: 1,
    StopCause.PREEMPT: 2,
    StopCause.PAUSE: 3,
    **dict.fromkeys(SEEN_ILL, 4),
    StopCause.CANCEL: 5,
    StopCause.FENCED: 6,
}


class Stop(Contract):
    """A request to end an attempt; ``term_seconds`` is the time between the signal and SIGKILL."""

    kind: StopCause
    revision: int = 1
    grace_seconds: float = 10
    term_seconds: float = 10
    reason: str = ""
    bad_step: int | None = None

    @property
    def signal(self) -> str:
        """Return the signal sent at the deadline: of a run that hangs, the one that has its stacks written."""
        return "SIGABRT" if self.kind is StopCause.HUNG else "SIGTERM"

    def then(self, later: "Stop") -> "Stop":
        """Return what holds when another request follows: the weightier one, of equals the newer; never more
        time.
        """
        mine, other = (_RANKS[self.kind], self.revision), (_RANKS[later.kind], later.revision)
        times = {
            "grace_seconds": min(self.grace_seconds, later.grace_seconds),
            "term_seconds": min(self.term_seconds, later.term_seconds),
        }
        return (later if other > mine else self).model_copy(update=times)


class Concluded(Contract):
    """How an attempt on several workers ended, all of them considered."""

    outcome: Outcome
    failure: Failure | None = None


class Attempt(Contract):
    """What this worker knows of an attempt and must not forget."""

    task_id: str
    attempt: int
    incarnation: str
    name: str
    config: TaskConfig
    slots: Slots
    overrides: JsonObject = {}
    parameter_changes: list[ParameterChange] = []
    answers: list[ParameterAnswer] = []
    repairs: list[Repair] = []
    resume_from: list[Checkpoint] = []
    timeout_seconds: float | None = None
    rank: int = 0
    members: list[Member] = []
    rendezvous: Rendezvous | None = None
    concluded: Concluded | None = None
    state: AttemptState = AttemptState.ACCEPTED
    version: int = 0
    received_at: Timestamp
    started_at: Timestamp | None = None
    ended_at: Timestamp | None = None
    reported_at: Timestamp | None = None
    stop: Stop | None = None
    outcome: Outcome | None = None
    failure: Failure | None = None
    bundle: Sha256 | None = None
    resume_step: int = 0
    checkpoints: list[Checkpoint] = []
    traceparent: str | None = None
    """The run's own place in the trace: what it says continues from here, whichever agent is there by then."""
    commanded_in: str | None = None
    """The place of the command that the run continues."""

    @property
    def given_back(self) -> str | None:
        """Return why it was paused though nobody asked."""
        is_idle = self.outcome is Outcome.PAUSED and self.stop is not None and self.stop.kind is StopCause.IDLE
        return self.stop.reason if is_idle and self.stop is not None else None

    @property
    def parameters(self) -> JsonObject:
        """Return the task's parameters with what repairs and people have changed."""
        return {**self.config.parameters, **self.overrides}

    @property
    def speaks(self) -> bool:
        """Return whether this worker speaks for the attempt: the only one, or rank 0's."""
        return self.rank == 0

    @property
    def is_fenced(self) -> bool:
        """Return whether a newer attempt of the task has taken its place."""
        return self.stop is not None and self.stop.kind is StopCause.FENCED

    @property
    def key(self) -> str:
        """Return the name of the attempt's folder and of its documents."""
        return key_of(self.task_id, self.attempt)

    @property
    def ref(self) -> AttemptRef:
        return AttemptRef(task_id=self.task_id, attempt=self.attempt)


def key_of(task_id: str, attempt: int) -> str:
    """Return `<task_id>.<attempt>`."""
    return f"{task_id}.{attempt}"


class Read(Contract):
    """How far an attempt's files have been published, and what they said last."""

    segment: int = 1
    offset: int = 0
    stdout: int = 0
    stderr: int = 0
    agent: int = 0
    points: int = 0
    step: int | None = None
    total_steps: int | None = None
    latest: dict[str, Number] = {}
    first_time: float | None = None
    first_step: int = 0
    last_time: float | None = None

    def eta_seconds(self) -> float | None:
        """Return the time left by the run's own pace, or None when it cannot be known."""
        if self.step is None or self.total_steps is None or self.first_time is None or self.last_time is None:
            return None
        steps, seconds = self.step - self.first_step, self.last_time - self.first_time
        if steps <= 0 or seconds <= 0:
            return None
        return max(0.0, (self.total_steps - self.step) * seconds / steps)


def document(attempt: Attempt, worker_id: str, incarnation: str, read: Read) -> AttemptDocument:
    """Return the public document of an attempt."""
    return AttemptDocument(
        task_id=attempt.task_id,
        attempt=attempt.attempt,
        version=attempt.version,
        worker_id=worker_id,
        incarnation=incarnation,
        started_at=attempt.started_at,
        ended_at=attempt.ended_at,
        resume_step=attempt.resume_step,
        final_step=read.step if attempt.outcome is not None else None,
        total_steps=read.total_steps,
        latest_metrics=read.latest,
        outcome=attempt.outcome,
        failure=attempt.failure,
        given_back=attempt.given_back,
        bundle=attempt.bundle,
        checkpoints=attempt.checkpoints,
        parameters=attempt.answers,
    )


def with_changes(known: list[ParameterChange], news: Iterable[ParameterChange]) -> list[ParameterChange]:
    """Return the changes of an attempt's parameters with those that are new, by revision."""
    newest = max((one.revision for one in known), default=0)
    later = sorted((one for one in news if one.revision > newest), key=lambda one: one.revision)
    return [*known, *later]


def with_answers(known: list[ParameterAnswer], found: object) -> list[ParameterAnswer]:
    """Return a run's answers with those that its file has besides; what is none of ours is passed over."""
    told = {one.revision for one in known}
    fresh = []
    for item in found if isinstance(found, list) else ():
        try:
            answer = ParameterAnswer.model_validate(item)
        except ValidationError:
            continue
        if answer.revision not in told:
            told.add(answer.revision)
            fresh.append(answer)
    return [*known, *sorted(fresh, key=lambda one: one.revision)]


def answer_in_words(changes: list[ParameterChange], answer: ParameterAnswer) -> str:
    """Return what a run did about changed parameters, for its log."""
    change = next((one for one in changes if one.revision == answer.revision), None)
    values = change.changes.items() if change is not None else ()
    what = ", ".join(f"{name} {value.old} → {value.new}" for name, value in values)
    said = f"parameters of revision {answer.revision}{f' ({what})' if what else ''}"
    return f"{said} hold from step {answer.step}" if answer.error is None else f"{said} refused: {answer.error}"


def command_line(recipe: str, parameters: dict[str, Any], python: str) -> list[str]:
    """Return what the child executes: a script of the task's files, or a recipe by name.

    Raises:
        ValueError: A script task names no script, or its arguments are not a list.
    """
    if recipe != "script":
        return [python, "-u", "-P", "-m", "trainwright.training.launch"]
    path, arguments = parameters.get("path"), parameters.get("args") or []
    if not isinstance(path, str) or not path:
        raise ValueError("a script task needs parameters.path: the script's file")
    if not isinstance(arguments, list):
        raise ValueError("parameters.args must be a list")
    return [python, "-u", path, *(str(item) for item in arguments)]


def run_parameters(recipe: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """Return what `run.parameters` shows: of a script's, all but the script itself and its arguments."""
    if recipe != "script":
        return parameters
    return {name: value for name, value in parameters.items() if name not in ("path", "args")}


def is_late(not_after: datetime | None, now: datetime) -> bool:
    """Return whether a command came too late."""
    return not_after is not None and now > not_after
