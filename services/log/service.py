"""Composition of the log service."""

from services.log.handlers import Handlers
from services.log.reactions import reactions
from services.log.routes import build_router
from services.log.store import TASKS
from trainwright.runtime.service import Runtime, Service
from trainwright.storage.sqlite_records import SCHEMA, SqliteRecords


def build_service(runtime: Runtime) -> Service:
    """Return the log service."""
    store = runtime.store("log", (TASKS,), SCHEMA)
    records = SqliteRecords(store)
    return Service(
        name="log",
        store=store,
        reactions=reactions(Handlers(records)),
        router=build_router(store, records),
    )
