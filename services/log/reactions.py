"""What the log service reacts to."""

from services.log.handlers import Handlers
from trainwright.contracts import log, queue, task, topics
from trainwright.runtime.apply import Reactions


def reactions(handlers: Handlers) -> Reactions:
    """Return the table: topic, event, handler."""
    return {
        topics.LOG: {
            log.LogBatch: handlers.on_log_batch,
            log.MemberLogBatch: handlers.on_log_batch,
        },
        topics.QUEUE: {
            queue.WorkerLost: handlers.on_worker_lost,
            queue.PlacementReleased: handlers.on_placement_released,
        },
        topics.TASK: {
            task.TaskCreated: handlers.on_task_created,
        },
    }
