"""The rules of tasks and of stored configurations. Pure: no I/O, no clock, no identifiers made here."""

from services.task.domain.changes import TRANSITIONS, Change
from services.task.domain.configurations import deleted, replaced, restored, stored
from services.task.domain.dependencies import cycle, dependencies_met, dependency_over, waits_for
from services.task.domain.edits import archived, changed, resized
from services.task.domain.parameters import current, hash_of, is_waiting, requested
from services.task.domain.quotas import never_admitted
from services.task.domain.tasks import (
    LIVE,
    cancel,
    created,
    ended,
    is_fenced,
    lost,
    pause,
    placed,
    queued,
    reported,
    resume,
    start,
    started,
)

__all__ = [
    "LIVE",
    "TRANSITIONS",
    "Change",
    "archived",
    "cancel",
    "changed",
    "created",
    "current",
    "cycle",
    "deleted",
    "dependencies_met",
    "dependency_over",
    "ended",
    "hash_of",
    "is_fenced",
    "is_waiting",
    "lost",
    "never_admitted",
    "pause",
    "placed",
    "queued",
    "replaced",
    "reported",
    "requested",
    "resized",
    "restored",
    "resume",
    "start",
    "started",
    "stored",
    "waits_for",
]
