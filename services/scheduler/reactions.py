"""What the scheduler reacts to."""

from services.scheduler.handlers import Handlers
from trainwright.contracts import attempt, gang, pulse, topics
from trainwright.runtime.apply import Newest, Reactions


def reactions(handlers: Handlers) -> Reactions:
    """Return the table: topic, event, handler."""
    return {
        topics.TASK: dict.fromkeys(topics.TASK.events, Newest(handlers.on_task_changed)),
        topics.ATTEMPT: {
            attempt.AttemptEnded: handlers.on_attempt_ended,
            gang.MemberEnded: handlers.on_member_ended,
        },
        topics.WORKER: dict.fromkeys(topics.WORKER.events, handlers.on_worker_changed),
        topics.PULSE: {
            pulse.WorkerHeartbeat: handlers.on_heartbeat,
            pulse.SchedulerProbed: handlers.on_probe,
        },
        topics.RESOURCE: dict.fromkeys(topics.RESOURCE.events, handlers.on_decided),
    }
