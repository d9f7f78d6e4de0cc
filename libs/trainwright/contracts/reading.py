"""How a stranger reads each kind of event: where its key and its document stand, and how a repeat is known.

Places are JSON Pointers (RFC 6901) into the event's data. This is what ``asyncapi.json`` tells outsiders; our own
consumers go by ``Event.guard``, and a test holds the two together.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from trainwright.contracts import (
    attempt,
    command,
    configuration,
    dead,
    gang,
    log,
    metric,
    pulse,
    queue,
    quota,
    result,
    task,
    worker,
)
from trainwright.contracts.base import Event

Rule = Literal["newer", "once", "numbered", "latest"]


@dataclass(frozen=True, slots=True)
class Reading:
    """Where to look in one kind of event.

    ``rule`` says which events to apply: those whose ``order`` is above the last one of the same ``identity``
    (newer), those whose ``identity`` is new (once), those ``items`` whose ``number`` is new for the ``identity``
    (numbered), or all of them, each in place of the one before (latest).
    """

    key: str
    rule: Rule
    identity: tuple[str, ...]
    order: tuple[str, ...] = ()
    items: str | None = None
    number: str | None = None
    document: str | None = None
    version: str | None = None
    attempt: str | None = None
    attempt_from_start: bool = True
    """False where there is no attempt before the first placement."""


def _document(noun: str, subject: str, *, attempt: str | None = None, late: bool = False) -> Reading:
    version = f"/{noun}/version"
    return Reading(
        key=f"/{noun}/{subject}",
        rule="newer",
        identity=(f"/{noun}/{subject}",),
        order=(version,),
        document=f"/{noun}",
        version=version,
        attempt=attempt,
        attempt_from_start=not late,
    )


READINGS: Mapping[type[Event], Reading] = MappingProxyType(
    {
        task.TaskEvent: _document("task", "task_id", attempt="/task/attempt", late=True),
        queue.PlacementEvent: _document("placement", "task_id", attempt="/placement/attempt", late=True),
        worker.WorkerEvent: _document("worker", "worker_id"),
        attempt.AttemptEvent: Reading(
            key="/attempt/task_id",
            rule="newer",
            identity=("/attempt/task_id",),
            order=("/attempt/attempt", "/attempt/version"),
            document="/attempt",
            version="/attempt/version",
            attempt="/attempt/attempt",
        ),
        gang.MemberEnded: Reading(
            key="/member/task_id",
            rule="once",
            identity=("/member/task_id", "/member/attempt", "type", "/member/rank"),
            attempt="/member/attempt",
        ),
        result.ResultEvent: Reading(
            key="/model/task_id",
            rule="newer",
            identity=("/model/model_id",),
            order=("/model/version",),
            document="/model",
            version="/model/version",
            attempt="/model/attempt",
        ),
        configuration.ConfigurationEvent: Reading(
            key="/configuration/config_id",
            rule="newer",
            identity=("/configuration/config_id",),
            order=("/configuration/version",),
            document="/configuration",
            version="/configuration/version",
        ),
        quota.StrategyChanged: _document("strategy", "strategy"),
        quota.ReservationChanged: _document("reservation", "reservation_id"),
        quota.WorkerCordoned: _document("cordon", "worker_id"),
        command.Command: Reading(
            key="/worker_id",
            rule="once",
            identity=("/task_id", "/attempt", "type", "/revision"),
            attempt="/attempt",
        ),
        pulse.AttemptProgressed: Reading(
            key="/worker_id",
            rule="newer",
            identity=("/task_id",),
            order=("/attempt", "/seq"),
            document="",
            attempt="/attempt",
        ),
        pulse.WorkerHeartbeat: Reading(key="/worker_id", rule="latest", identity=("/worker_id",), document=""),
        pulse.SchedulerProbed: Reading(key="/scheduler", rule="latest", identity=("/scheduler",), document=""),
        metric.MetricBatch: Reading(
            key="/task_id",
            rule="numbered",
            identity=("/task_id", "/attempt"),
            items="/points",
            number="/0",
            attempt="/attempt",
        ),
        log.LogBatch: Reading(
            key="/task_id",
            rule="numbered",
            identity=("/task_id", "/attempt", "/stream"),
            items="/records",
            number="/seq",
            attempt="/attempt",
        ),
        log.MemberLogBatch: Reading(
            key="/task_id",
            rule="numbered",
            identity=("/task_id", "/attempt", "/rank", "/stream"),
            items="/records",
            number="/seq",
            attempt="/attempt",
        ),
        dead.DeadLettered: Reading(
            key="/letter/consumer", rule="once", identity=("/letter/dead_id",), document="/letter"
        ),
    }
)
"""By event class, or the base class of all events of a noun; ``type`` in an identity is the event's type."""


def reading_of(kind: type[Event]) -> Reading:
    """Return how to read a kind of event."""
    return next(READINGS[base] for base in kind.__mro__ if base in READINGS)
