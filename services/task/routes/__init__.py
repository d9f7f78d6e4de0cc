"""The task service's HTTP edge: tasks, their transitions and parameters, files, stored configurations."""

from fastapi import APIRouter

from services.task.routes.configurations import config_routes
from services.task.routes.files import file_routes
from services.task.routes.parameters import parameter_routes
from services.task.routes.tasks import task_routes
from services.task.routes.transitions import transition_routes
from services.task.settings import TaskSettings
from trainwright.runtime.clock import Clock
from trainwright.storage.blob import BlobStore
from trainwright.storage.document import DocumentStore


def build_router(store: DocumentStore, blobs: BlobStore, settings: TaskSettings, clock: Clock) -> APIRouter:
    """Return every route of the task service."""
    router = APIRouter()
    router.include_router(task_routes(store, blobs, settings, clock))
    router.include_router(transition_routes(store, clock))
    router.include_router(parameter_routes(store, clock))
    router.include_router(config_routes(store, settings, clock))
    router.include_router(file_routes(blobs, settings))
    return router
