"""Log records of runs."""

from enum import StrEnum
from typing import ClassVar

from pydantic import Field

from trainwright.contracts.base import (
    AttemptNumber,
    Contract,
    Event,
    JsonObject,
    TaskId,
    Timestamp,
    example,
)


class LogLevel(StrEnum):
    """How grave a record is."""

    DEBUG = "DEBUG"
    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"
    CRITICAL = "CRITICAL"


class LogStream(StrEnum):
    """Where a record comes from; each stream of a process of an attempt is numbered by itself."""

    STDOUT = "stdout"
    STDERR = "stderr"
    AGENT = "agent"


class LogRecord(Contract):
    """One record of a stream."""

    seq: int = Field(description="Its number: the byte offset in its stream. Grows, with gaps.")
    time: Timestamp = Field(description="When it was written, by the clock of the worker.")
    level: LogLevel
    message: str = Field(description="A line, or a whole traceback.")
    extra: JsonObject = Field(default={}, description="What else is known, e.g. the exception's type.")


class LogEvent(Event):
    """Records of one stream of one process of an attempt, in order; a reader skips numbers it has."""

    noun: ClassVar[str] = "log"
    task_id: TaskId
    attempt: AttemptNumber
    stream: LogStream
    records: list[LogRecord] = Field(min_length=1, description="In the order of their numbers.")

    @property
    def subject(self) -> str:
        return self.task_id

    @property
    def attempt_number(self) -> int:
        return self.attempt


class LogBatch(LogEvent):
    """Records of one stream of one attempt, in order; a reader skips numbers it has."""

    rank: int | None = Field(None, description="0 where several workers run the attempt; null for one alone.")


class MemberLogBatch(LogEvent):
    """Records of one of several workers that is not rank 0: numbered by themselves, within rank and stream."""

    rank: int = Field(ge=1, description="Its number among the members.")


class LogEntry(Contract):
    """A row of `GET /tasks/{id}/logs`."""

    time: Timestamp = Field(description="When it was written, by the clock of the worker.")
    level: LogLevel
    message: str = Field(description="A line, or a whole traceback.")
    extra: JsonObject = Field(
        description="`attempt`, `stream`, of an attempt on several workers `rank`, and what the record carried."
    )


class LogPage(Contract):
    """`GET /tasks/{id}/logs`: oldest first; with `next_cursor` the following page, also later on."""

    model_config = example(
        entries=[
            {
                "time": "2025-03-03T08:16:03.100000Z",
                "level": "WARNING",
                "message": "7 series are shorter than two horizons",
                "extra": {"attempt": 1, "stream": "stderr"},
            }
        ],
        next_cursor="WzE3XQ",
    )
    entries: list[LogEntry]
    next_cursor: str | None = Field(description="`cursor` of what follows, also of what comes later.")
