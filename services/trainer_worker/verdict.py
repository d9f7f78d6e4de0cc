"""What an ending means: how the process ended, what was asked of it, and which came first. Pure.

Not here: why a run failed by itself (trainwright.training.classify).
"""

from dataclasses import dataclass
from typing import Any

from services.trainer_worker.domain import SEEN_ILL, Stop, StopCause
from trainwright.contracts.attempt import Outcome
from trainwright.contracts.failure import Failure, FailureClass
from trainwright.training.classify import Ending, classify
from trainwright.training.text import printable
from trainwright.training.traces import crash_frame

MAX_STACKS = 16_000
_TITLE = "Fatal Python error: "


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an ending means."""

    outcome: Outcome
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """How far a request to stop had come when the process ended: `heard` by its parent, `seen` by the run
    itself, `signalled` when the parent had begun to end it.
    """

    heard: bool = False
    seen: bool = False
    signalled: bool = False


def judge(ending: Ending, stop: Stop | None, asked: Asked) -> Verdict:
    """Return what an ending means.

    A run that ended well before it noticed the request has completed; one that noticed it, or was ended,
    has not.
    """
    if ending.reason in ("no_agent", "shim_told_to_end"):
        away = "the worker was away for longer than its runs wait"
        message = away if ending.reason == "no_agent" else "the run's parent process was told to end"
        return Verdict(Outcome.INTERRUPTED, infrastructure(FailureClass.WORKER_LOST, message))
    if stop is not None and _is_why(ending, stop, asked):
        return stopped(stop, ending)
    if ending.exit_code == 0:
        return Verdict(Outcome.COMPLETED)
    return Verdict(Outcome.FAILED, classify(ending))


def _is_why(ending: Ending, stop: Stop, asked: Asked) -> bool:
    """Return whether a run ended for the request, and not well, or by a failure of its own, before it."""
    if asked.signalled:
        return True
    if stop.kind in (StopCause.PAUSE, StopCause.IDLE, StopCause.HUNG, StopCause.TIMED_OUT):
        return asked.seen and not _failed(ending)
    return asked.seen or (asked.heard and ending.exit_code != 0)


def _failed(ending: Ending) -> bool:
    """Return whether a process that we sent no signal died or raised; its own `sys.exit(1)` is its way to
    leave.
    """
    return ending.exit_code is None or (ending.exit_code != 0 and classify(ending).exception is not None)


def stopped(stop: Stop, ending: Ending | None = None) -> Verdict:
    """Return what a stop on request means."""
    if stop.kind is StopCause.CANCEL:
        return Verdict(Outcome.CANCELLED)
    if stop.kind in (StopCause.PAUSE, StopCause.IDLE):
        return Verdict(Outcome.PAUSED)
    if stop.kind in SEEN_ILL:
        return Verdict(Outcome.FAILED, _seen_ill(stop, ending or Ending()))
    kind = FailureClass.PREEMPTED if stop.kind is StopCause.PREEMPT else FailureClass.WORKER_LOST
    messages = {
        StopCause.PREEMPT: "the place was needed for another task",
        StopCause.FENCED: "a newer attempt of the task runs",
        StopCause.WORKER_STOPS: "the worker was stopped",
    }
    return Verdict(Outcome.INTERRUPTED, infrastructure(kind, stop.reason or messages[stop.kind]))


def _seen_ill(stop: Stop, ending: Ending) -> Failure:
    found = stacks(ending.stderr) if stop.kind is StopCause.HUNG else None
    # Of several processes nobody can tell which stack is whose: the line is named where there is one.
    place = crash_frame(found, ending.folder) if found is not None and found.count(_TITLE) == 1 else None
    return Failure(
        failure_class=FailureClass(stop.kind.value),
        message=stop.reason,
        bad_step=stop.bad_step,
        traceback=found,
        file=place.file.removeprefix(f"{ending.folder}/") if place is not None else None,
        line=place.line if place is not None else None,
        exit_code=ending.exit_code,
        signal=ending.signal,
    )


def stacks(stderr: str) -> str | None:
    """Return the stacks of all threads, of all its processes, that Python wrote when the run was aborted."""
    lines = printable(stderr).splitlines()
    begin = next((number for number, line in enumerate(lines) if line.startswith(_TITLE)), None)
    if begin is None:
        return None
    dump = [line for line in lines[begin:] if not line.startswith("Extension modules: ")]
    return "\n".join(dump).strip()[:MAX_STACKS]


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
