"""What the result service reacts to."""

from services.result import handlers
from trainwright.contracts import attempt, task, topics
from trainwright.runtime.apply import Reactions

REACTIONS: Reactions = {
    topics.TASK: {
        task.TaskCreated: handlers.on_task,
        task.TaskReady: handlers.on_task,
        task.TaskStopRequested: handlers.on_task,
        task.TaskRetryScheduled: handlers.on_task,
        task.TaskStatusChanged: handlers.on_task,
    },
    topics.ATTEMPT: {
        attempt.AttemptStarted: handlers.on_attempt,
        attempt.CheckpointSaved: handlers.on_attempt,
        attempt.AttemptEnded: handlers.on_attempt,
    },
}
