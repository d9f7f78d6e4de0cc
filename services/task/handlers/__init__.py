"""Use cases of the task service: what each fact or request does. No Kafka, no HTTP.

Handlers take the message first and return the events that follow; the runtime saves those in the same
transaction.
"""

from services.task.handlers.configurations import (
    Source,
    create_config,
    delete_config,
    document_of,
    read_source,
    replace_config,
    restore_config,
)
from services.task.handlers.edits import archive_task, change_task, set_resources
from services.task.handlers.parameters import answer_of, set_parameters
from services.task.handlers.quotas import on_strategy_changed
from services.task.handlers.tasks import (
    cancel_task,
    create_task,
    on_attempt_ended,
    on_attempt_progressed,
    on_attempt_started,
    on_checkpoint_saved,
    on_member_ended,
    on_parameters_answered,
    on_placement_assigned,
    on_task_queued,
    on_worker_lost,
    pause_task,
    resume_task,
    start_task,
)
from services.task.handlers.upkeep import Announcer, archive_old, forget_requests

__all__ = [
    "Announcer",
    "Source",
    "answer_of",
    "archive_old",
    "archive_task",
    "cancel_task",
    "change_task",
    "create_config",
    "create_task",
    "delete_config",
    "document_of",
    "forget_requests",
    "on_attempt_ended",
    "on_attempt_progressed",
    "on_attempt_started",
    "on_checkpoint_saved",
    "on_member_ended",
    "on_parameters_answered",
    "on_placement_assigned",
    "on_strategy_changed",
    "on_task_queued",
    "on_worker_lost",
    "pause_task",
    "read_source",
    "replace_config",
    "restore_config",
    "resume_task",
    "set_parameters",
    "set_resources",
    "start_task",
]
