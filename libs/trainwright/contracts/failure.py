"""Failures: their classes, and what is known of one."""

from enum import StrEnum

from pydantic import Field

from trainwright.contracts.base import Contract


class FailureClass(StrEnum):
    """Why an attempt failed; each class has its own repair."""

    OUT_OF_MEMORY = "out_of_memory"
    DIVERGED = "diverged"
    HUNG = "hung"
    TIMED_OUT = "timed_out"
    WORKER_LOST = "worker_lost"
    PREEMPTED = "preempted"
    NODE_BAD = "node_bad"
    DATA_ERROR = "data_error"
    USER_ERROR = "user_error"
    ENVIRONMENT_ERROR = "environment_error"
    UNKNOWN = "unknown"


INFRASTRUCTURE = frozenset({FailureClass.WORKER_LOST, FailureClass.PREEMPTED, FailureClass.NODE_BAD})
"""Losses that are nobody's fault: restarted without back-off and without charge."""


class Failure(Contract):
    """What is known about a failure: its class, and the evidence."""

    failure_class: FailureClass
    message: str = Field(description="What happened, in one sentence.")
    exception: str | None = Field(None, description="Type of the exception.")
    traceback: str | None = Field(None, description="The traceback as Python wrote it, perhaps shortened.")
    file: str | None = Field(None, description="Where in the user's own code it happened.")
    line: int | None = Field(None, description="Line in `file`, from 1.")
    hint: str | None = Field(None, description="What to do next.")
    exit_code: int | None = Field(None, description="Exit code of the run's process.")
    signal: str | None = Field(None, description="Signal that ended the run's process, e.g. `SIGKILL`.")
    bad_step: int | None = Field(None, description="The first step that was not well, where one can be named.")
