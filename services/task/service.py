"""Composition of the task service."""

from functools import partial

from services.task import handlers
from services.task.reactions import REACTIONS
from services.task.routes import build_router
from services.task.settings import TaskSettings
from services.task.store import COLLECTIONS
from trainwright.runtime.service import Loop, Runtime, Service


def build_service(runtime: Runtime) -> Service:
    """Return the task service."""
    store = runtime.store("task", COLLECTIONS)
    return Service(
        name="task",
        store=store,
        reactions=REACTIONS,
        router=build_router(store, runtime.blobs(), TaskSettings(), runtime.clock),
        loops=[
            Loop("announce silent tasks", 60, partial(handlers.announce_silent, store, runtime.clock)),
            Loop("forget old requests", 3600, partial(handlers.forget_requests, store, runtime.clock)),
        ],
    )
