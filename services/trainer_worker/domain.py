"""One worker's attempts: their states, and what an ending means. Pure: no I/O, no clock.

`accepted → running → ended → reported`: a command was kept; a process runs; it is over; everything that it
had to say is published and so is its ending. `lost`: another incarnation's, of which nothing is left.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from trainwright.contracts.attempt import AttemptDocument, Failure, FailureClass, Outcome
from trainwright.contracts.base import Contract, Number, Sha256, Timestamp
from trainwright.contracts.resource import Slots
from trainwright.contracts.task import StopKind, TaskConfig
from trainwright.contracts.worker import AttemptRef
from trainwright.training.classify import Ending, classify

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
    """Why this worker ends an attempt: the scheduler's kinds, and its own."""

    CANCEL = StopKind.CANCEL.value
    PREEMPT = StopKind.PREEMPT.value
    FENCED = "fenced"
    WORKER_STOPS = "worker_stops"


class Stop(Contract):
    """A request to end an attempt; ``term_seconds`` is the time between SIGTERM and SIGKILL."""

    kind: StopCause
    revision: int = 1
    grace_seconds: float = 10
    term_seconds: float = 10
    reason: str = ""


class Attempt(Contract):
    """What this worker knows of an attempt and must not forget."""

    task_id: str
    attempt: int
    incarnation: str
    name: str
    config: TaskConfig
    slots: Slots
    state: AttemptState = AttemptState.ACCEPTED
    received_at: Timestamp
    started_at: Timestamp | None = None
    ended_at: Timestamp | None = None
    reported_at: Timestamp | None = None
    stop: Stop | None = None
    outcome: Outcome | None = None
    failure: Failure | None = None
    bundle: Sha256 | None = None

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


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an ending means."""

    outcome: Outcome
    failure: Failure | None = None


def judge(ending: Ending, stop: Stop | None, *, asked: bool, stop_seen: bool) -> Verdict:
    """Return what an ending means; `asked` says that the request to stop had reached the process's parent.

    A run that ended well before it noticed the request has completed; one that noticed it, or was ended,
    has not.
    """
    if ending.reason in ("no_agent", "shim_told_to_end"):
        away = "the worker was away for longer than its runs wait"
        message = away if ending.reason == "no_agent" else "the run's parent process was told to end"
        return Verdict(Outcome.INTERRUPTED, infrastructure(FailureClass.WORKER_LOST, message))
    if stop is not None and (stop_seen or (asked and ending.exit_code != 0)):
        return stopped(stop)
    if ending.exit_code == 0:
        return Verdict(Outcome.COMPLETED)
    return Verdict(Outcome.FAILED, classify(ending))


def stopped(stop: Stop) -> Verdict:
    """Return what a stop on request means."""
    if stop.kind is StopCause.CANCEL:
        return Verdict(Outcome.CANCELLED)
    kind = FailureClass.PREEMPTED if stop.kind is StopCause.PREEMPT else FailureClass.WORKER_LOST
    messages = {
        StopCause.PREEMPT: "the place was needed for another task",
        StopCause.FENCED: "a newer attempt of the task runs",
        StopCause.WORKER_STOPS: "the worker was stopped",
    }
    return Verdict(Outcome.INTERRUPTED, infrastructure(kind, stop.reason or messages[stop.kind]))


def infrastructure(kind: FailureClass, message: str) -> Failure:
    """Return a loss that is nobody's fault."""
    return Failure(failure_class=kind, message=message)


def ending_of(exit_file: dict[str, Any], stderr_tail: str, folder: str = "") -> Ending:
    """Return what the shim's `exit.json` and the end of stderr say of a run in `folder`."""
    return Ending(
        exit_code=exit_file.get("exit_code"),
        signal=exit_file.get("signal"),
        reason=str(exit_file.get("reason") or "exited"),
        error=exit_file.get("error"),
        stderr=stderr_tail,
        oom_kills=int(exit_file.get("oom_kills") or 0),
        folder=folder,
    )


def document(attempt: Attempt, worker_id: str, incarnation: str, read: Read) -> AttemptDocument:
    """Return the public document of an attempt: version 1 when it starts, 2 when it has ended."""
    return AttemptDocument(
        task_id=attempt.task_id,
        attempt=attempt.attempt,
        version=1 if attempt.outcome is None else 2,
        worker_id=worker_id,
        incarnation=incarnation,
        started_at=attempt.started_at,
        ended_at=attempt.ended_at,
        final_step=read.step if attempt.outcome is not None else None,
        total_steps=read.total_steps,
        latest_metrics=read.latest,
        outcome=attempt.outcome,
        failure=attempt.failure,
        bundle=attempt.bundle,
    )


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
