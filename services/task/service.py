"""Composition of the task service."""

from functools import partial

from services.task import handlers
from services.task.figures import tasks_by_status
from services.task.reactions import REACTIONS
from services.task.routes import build_router
from services.task.settings import TaskSettings
from services.task.store import COLLECTIONS
from trainwright.runtime.service import Loop, Runtime, Service


def build_service(runtime: Runtime) -> Service:
    """Return the task service."""
    store, settings = runtime.store("task", COLLECTIONS), TaskSettings()
    return Service(
        name="task",
        store=store,
        reactions=REACTIONS,
        router=build_router(store, runtime.blobs(), settings, runtime.clock),
        loops=[
            Loop("announce silent tasks", 60, handlers.Announcer(store, runtime.clock).run),
            Loop("forget old requests", 3600, partial(handlers.forget_requests, store, runtime.clock)),
            Loop(
                "archive old tasks",
                settings.archive_every,
                partial(handlers.archive_old, store, runtime.clock, days=settings.archive_days),
            ),
        ],
        figures=partial(tasks_by_status, store),
    )
