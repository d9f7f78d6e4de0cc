"""Composition of the log service."""

from services.log.handlers import Handlers
from services.log.reactions import reactions
from services.log.routes import build_router
from services.log.store import TASKS
from trainwright.contracts.topics import TASK
from trainwright.runtime.service import Runtime, Service


def build_service(runtime: Runtime) -> Service:
    """Return the log service."""
    store, records = runtime.records("log", (TASKS,))
    return Service(
        name="log",
        store=store,
        reactions=reactions(Handlers(records)),
        at_leisure=(TASK,),
        router=build_router(store, records),
    )
