"""What an ending means, in every order of a request to stop and the run's own end."""

import pytest

from services.trainer_worker.domain import Stop, StopCause
from services.trainer_worker.verdict import Asked, judge, stacks, stopped
from trainwright.contracts.attempt import Outcome
from trainwright.contracts.failure import FailureClass
from trainwright.training.classify import Ending

CANCEL, PAUSE = Stop(kind=StopCause.CANCEL), Stop(kind=StopCause.PAUSE)
PREEMPT, LEAVES = Stop(kind=StopCause.PREEMPT), Stop(kind=StopCause.WORKER_STOPS)
HUNG = Stop(kind=StopCause.HUNG, reason="no step for 90 s")
DIVERGED = Stop(kind=StopCause.DIVERGED, reason="loss is no finite number", bad_step=41)
TIMED_OUT = Stop(kind=StopCause.TIMED_OUT, reason="it has trained for 2 h")
NOT, HEARD, SEEN = Asked(), Asked(heard=True), Asked(heard=True, seen=True)
SIGNALLED = Asked(heard=True, signalled=True)
RAISED = Ending(
    exit_code=1,
    stderr='Traceback (most recent call last):\n  File "train.py", line 3, in <module>\nValueError: no column\n',
)
TERMINATED, WELL, CODE_ONE = Ending(exit_code=143), Ending(exit_code=0), Ending(exit_code=1)
DUMP = """warning: something
Fatal Python error: Aborted

Thread 0x00007f01 (most recent call first):
  File "train.py", line 4 in wait
Current thread 0x00007f02 (most recent call first):
  File "train.py", line 9 in <module>

Extension modules: numpy.core._multiarray_umath (total: 1)
"""


@pytest.mark.parametrize(
    ("ending", "stop", "asked", "outcome"),
    [
        (WELL, None, NOT, Outcome.COMPLETED),
        (CODE_ONE, None, NOT, Outcome.FAILED),
        (WELL, CANCEL, SEEN, Outcome.CANCELLED),
        (WELL, CANCEL, HEARD, Outcome.COMPLETED),  # it had finished before it noticed
        (TERMINATED, CANCEL, SIGNALLED, Outcome.CANCELLED),
        (Ending(signal="SIGKILL"), CANCEL, SIGNALLED, Outcome.CANCELLED),
        (WELL, CANCEL, SIGNALLED, Outcome.CANCELLED),  # it handles SIGTERM itself and leaves with 0
        (RAISED, CANCEL, HEARD, Outcome.CANCELLED),  # whatever: it was to go
        (CODE_ONE, CANCEL, NOT, Outcome.FAILED),  # it failed before it was asked
        (WELL, PAUSE, SEEN, Outcome.PAUSED),
        (CODE_ONE, PAUSE, SEEN, Outcome.PAUSED),  # its own way to leave
        (TERMINATED, PAUSE, SIGNALLED, Outcome.PAUSED),
        (WELL, PAUSE, SIGNALLED, Outcome.PAUSED),
        (WELL, PAUSE, HEARD, Outcome.COMPLETED),
        (RAISED, PAUSE, HEARD, Outcome.FAILED),
        (RAISED, PAUSE, SEEN, Outcome.FAILED),  # saving failed, say
        (Ending(signal="SIGSEGV"), PAUSE, SEEN, Outcome.FAILED),
        (CODE_ONE, PAUSE, HEARD, Outcome.FAILED),
        (WELL, PREEMPT, SEEN, Outcome.INTERRUPTED),
        (WELL, LEAVES, SEEN, Outcome.INTERRUPTED),
        (RAISED, LEAVES, HEARD, Outcome.INTERRUPTED),  # a machine that shuts down makes runs fail
        (Ending(signal="SIGTERM", reason="no_agent"), None, NOT, Outcome.INTERRUPTED),
        (Ending(signal="SIGTERM", reason="no_agent"), CANCEL, SIGNALLED, Outcome.INTERRUPTED),
        (Ending(signal="SIGTERM", reason="shim_told_to_end"), None, NOT, Outcome.INTERRUPTED),
        (Ending(signal="SIGABRT"), HUNG, SIGNALLED, Outcome.FAILED),
        (WELL, HUNG, HEARD, Outcome.COMPLETED),  # it woke up and finished
        (WELL, TIMED_OUT, HEARD, Outcome.COMPLETED),
        (WELL, TIMED_OUT, SEEN, Outcome.FAILED),
    ],
)
def test_an_ending_and_a_request_to_stop_in_every_order(
    ending: Ending, stop: Stop | None, asked: Asked, outcome: Outcome
) -> None:
    assert judge(ending, stop, asked).outcome is outcome


@pytest.mark.parametrize(
    ("ending", "stop", "asked", "kind"),
    [
        (WELL, PREEMPT, SEEN, FailureClass.PREEMPTED),
        (Ending(signal="SIGTERM", reason="no_agent"), None, NOT, FailureClass.WORKER_LOST),
        (Ending(signal="SIGABRT"), HUNG, SIGNALLED, FailureClass.HUNG),
        (TERMINATED, DIVERGED, SIGNALLED, FailureClass.DIVERGED),
        (RAISED, DIVERGED, HEARD, FailureClass.DIVERGED),  # it found out itself meanwhile
        (WELL, TIMED_OUT, SEEN, FailureClass.TIMED_OUT),
        (TERMINATED, TIMED_OUT, SIGNALLED, FailureClass.TIMED_OUT),
        (RAISED, TIMED_OUT, SEEN, FailureClass.USER_ERROR),
        (RAISED, HUNG, HEARD, FailureClass.USER_ERROR),  # it woke up and raised, before the signal came
    ],
)
def test_causes_are_told_apart(ending: Ending, stop: Stop | None, asked: Asked, kind: FailureClass) -> None:
    failure = judge(ending, stop, asked).failure
    assert failure is not None
    assert failure.failure_class is kind


def test_what_the_watcher_saw_is_in_the_failure_and_so_are_the_stacks_of_a_run_that_hung() -> None:
    diverged = judge(TERMINATED, DIVERGED, SIGNALLED).failure
    assert diverged is not None
    assert (diverged.message, diverged.bad_step, diverged.traceback) == (DIVERGED.reason, 41, None)
    hung = judge(Ending(signal="SIGABRT", stderr=DUMP), HUNG, SIGNALLED).failure
    assert hung is not None
    assert hung.traceback == stacks(DUMP)
    assert hung.traceback is not None
    assert hung.traceback.startswith("Fatal Python error: Aborted")
    assert hung.traceback.endswith("line 9 in <module>")
    assert stacks("killed before it could write") is None


def test_a_stop_before_the_start_needs_no_ending() -> None:
    assert stopped(PAUSE).outcome is Outcome.PAUSED
    assert stopped(CANCEL).outcome is Outcome.CANCELLED
    assert stopped(LEAVES).outcome is Outcome.INTERRUPTED
