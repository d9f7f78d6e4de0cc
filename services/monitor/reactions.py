"""What the monitor reacts to."""

from services.monitor.handlers import Handlers
from trainwright.contracts import attempt, metric, queue, task, topics
from trainwright.runtime.apply import Newest, Reactions


def reactions(handlers: Handlers) -> Reactions:
    """Return the table: topic, event, handler."""
    on_task = Newest(handlers.on_task)
    return {
        topics.METRIC: {
            metric.MetricBatch: handlers.on_metric_batch,
        },
        topics.ATTEMPT: {
            attempt.AttemptStarted: handlers.on_attempt,
            attempt.CheckpointSaved: handlers.on_attempt,
            attempt.AttemptEnded: handlers.on_attempt,
        },
        topics.QUEUE: {
            queue.PlacementAssigned: handlers.on_placement,
            queue.PlacementReleased: handlers.on_placement,
            queue.WorkerLost: handlers.on_placement,
        },
        topics.TASK: {
            task.TaskCreated: on_task,
            task.TaskReady: on_task,
            task.TaskStopRequested: on_task,
            task.TaskRetryScheduled: on_task,
            task.TaskStatusChanged: on_task,
        },
    }
