"""Every topic, in one table: what it carries, its key, its writers, its partitions, how long it is kept.

Retention is part of the contract: lifecycle topics are kept for ever, because a new service or an outside
subscriber rebuilds its state by reading them from the start.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

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

HOUR_MS = 3_600_000
FOR_EVER = -1
GIB = 2**30


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic of the log. ``retention_ms`` and ``retention_bytes`` (per partition) of -1 mean for ever."""

    name: str
    key: str
    writers: tuple[str, ...]
    events: tuple[type[Event], ...]
    partitions: int
    retention_ms: int = FOR_EVER
    retention_bytes: int = FOR_EVER
    says: str = ""


TASK = Topic(
    "trainwright.task.v1",
    key="task_id",
    writers=("task",),
    events=(
        task.TaskCreated,
        task.TaskReady,
        task.TaskStopRequested,
        task.TaskRetryScheduled,
        task.TaskStatusChanged,
        task.TaskReprioritised,
        task.TaskParametersChanged,
        task.TaskResourcesChanged,
        task.TaskArchived,
    ),
    partitions=6,
    says="What a task is, and every change of it.",
)
QUEUE = Topic(
    "trainwright.queue.v1",
    key="task_id",
    writers=("scheduler",),
    events=(queue.TaskQueued, queue.PlacementAssigned, queue.PlacementReleased, queue.WorkerLost),
    partitions=6,
    says="Where a task waits or runs, and the number of its attempt.",
)
COMMAND = Topic(
    "trainwright.command.v1",
    key="worker_id",
    writers=("scheduler",),
    events=(command.RunAttempt, command.StopAttempt, command.UpdateParameters, command.ConcludeAttempt),
    partitions=6,
    retention_ms=24 * HOUR_MS,
    says="What the scheduler asks a worker to do.",
)
ATTEMPT = Topic(
    "trainwright.attempt.v1",
    key="task_id",
    writers=("trainer_worker",),
    events=(
        attempt.AttemptStarted,
        attempt.CheckpointSaved,
        attempt.ParametersApplied,
        attempt.ParametersRejected,
        attempt.AttemptEnded,
        gang.MemberEnded,
    ),
    partitions=6,
    says="How a try at a task began, what it saved, how it ended.",
)
WORKER = Topic(
    "trainwright.worker.v1",
    key="worker_id",
    writers=("trainer_worker",),
    events=(worker.WorkerRegistered, worker.WorkerDraining, worker.WorkerStopped),
    partitions=3,
    says="Workers that come and go.",
)
PULSE = Topic(
    "trainwright.pulse.v1",
    key="worker_id",
    writers=("trainer_worker", "scheduler"),
    events=(pulse.WorkerHeartbeat, pulse.AttemptProgressed, pulse.SchedulerProbed),
    partitions=3,
    retention_ms=HOUR_MS,
    says="Signs of life and progress; only the newest counts.",
)
METRIC = Topic(
    "trainwright.metric.v1",
    key="task_id",
    writers=("trainer_worker",),
    events=(metric.MetricBatch,),
    partitions=6,
    retention_ms=48 * HOUR_MS,
    retention_bytes=4 * GIB,
    says="Metrics by step.",
)
LOG = Topic(
    "trainwright.log.v1",
    key="task_id",
    writers=("trainer_worker",),
    events=(log.LogBatch, log.MemberLogBatch),
    partitions=6,
    retention_ms=48 * HOUR_MS,
    retention_bytes=4 * GIB,
    says="Log records of runs.",
)
RESULT = Topic(
    "trainwright.result.v1",
    key="task_id",
    writers=("result",),
    events=(result.ModelVersionRegistered, result.ReportGenerated),
    partitions=6,
    says="Model versions and reports.",
)
CONFIG = Topic(
    "trainwright.config.v1",
    key="config_id",
    writers=("task",),
    events=(
        configuration.ConfigurationCreated,
        configuration.ConfigurationUpdated,
        configuration.ConfigurationDeleted,
    ),
    partitions=3,
    says="Stored configurations, version by version.",
)
RESOURCE = Topic(
    "trainwright.resource.v1",
    key="strategy",
    writers=("scheduler",),
    events=(quota.StrategyChanged, quota.ReservationChanged, quota.WorkerCordoned),
    partitions=3,
    says="What operators decided about resources, and who: quotas, reservations, workers left out.",
)
DEAD = Topic(
    "trainwright.dead.v1",
    key="consumer",
    writers=("task", "scheduler", "monitor", "result", "log", "trainer_worker"),
    events=(dead.DeadLettered,),
    partitions=1,
    retention_ms=30 * 24 * HOUR_MS,
    says="Records that a consumer could not apply.",
)

TOPICS: tuple[Topic, ...] = (
    TASK,
    QUEUE,
    COMMAND,
    ATTEMPT,
    WORKER,
    PULSE,
    METRIC,
    LOG,
    RESULT,
    CONFIG,
    RESOURCE,
    DEAD,
)

TOPIC_OF: Mapping[type[Event], Topic] = MappingProxyType({e: t for t in TOPICS for e in t.events})
EVENT_TYPES: Mapping[str, type[Event]] = MappingProxyType({e.type_name(): e for e in TOPIC_OF})
