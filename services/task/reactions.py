"""What the task service reacts to."""

from services.task import handlers
from trainwright.contracts import attempt, gang, pulse, queue, quota, topics
from trainwright.runtime.apply import Reactions

REACTIONS: Reactions = {
    topics.QUEUE: {
        queue.TaskQueued: handlers.on_task_queued,
        queue.PlacementAssigned: handlers.on_placement_assigned,
        queue.WorkerLost: handlers.on_worker_lost,
    },
    topics.ATTEMPT: {
        attempt.AttemptStarted: handlers.on_attempt_started,
        attempt.CheckpointSaved: handlers.on_checkpoint_saved,
        attempt.ParametersApplied: handlers.on_parameters_answered,
        attempt.ParametersRejected: handlers.on_parameters_answered,
        gang.MemberEnded: handlers.on_member_ended,
        attempt.AttemptEnded: handlers.on_attempt_ended,
    },
    topics.PULSE: {
        pulse.AttemptProgressed: handlers.on_attempt_progressed,
    },
    topics.RESOURCE: {
        quota.StrategyChanged: handlers.on_strategy_changed,
    },
}
