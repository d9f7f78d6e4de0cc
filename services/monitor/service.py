"""Composition of the monitor."""

from services.monitor.handlers import Handlers
from services.monitor.reactions import reactions
from services.monitor.routes import build_router
from services.monitor.settings import MonitorSettings
from services.monitor.store import TASKS
from trainwright.contracts.topics import TASK
from trainwright.runtime.service import Runtime, Service


def build_service(runtime: Runtime) -> Service:
    """Return the monitor."""
    store, series = runtime.series("monitor", (TASKS,))
    return Service(
        name="monitor",
        store=store,
        reactions=reactions(Handlers(series)),
        at_leisure=(TASK,),
        router=build_router(store, series, MonitorSettings(), runtime.clock),
    )
