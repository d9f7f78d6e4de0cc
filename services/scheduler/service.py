"""Composition of the scheduler."""

from services.scheduler.handlers import Handlers
from services.scheduler.leases import Leases
from services.scheduler.passes import Passes
from services.scheduler.reactions import reactions
from services.scheduler.routes import build_router
from services.scheduler.settings import SchedulerSettings
from services.scheduler.store import COLLECTIONS
from trainwright.runtime.pulse import PulseSender
from trainwright.runtime.service import Loop, Runtime, Service


def build_service(runtime: Runtime) -> Service:
    """Return the scheduler."""
    settings = SchedulerSettings()
    clock = runtime.clock
    store = runtime.store("scheduler", COLLECTIONS)
    leases = Leases(clock, settings)
    pulses = PulseSender("scheduler", runtime.kafka, clock)
    scheduler_id = clock.new_id("scheduler")
    passes = Passes(store, leases, settings, clock, pulses, scheduler_id)
    handlers = Handlers(leases, settings, passes.wake, scheduler_id)
    return Service(
        name="scheduler",
        store=store,
        reactions=reactions(handlers),
        router=build_router(store, leases),
        loops=[
            Loop("sweep for lost workers and attempts", 1, passes.sweep),
            Loop("probe", settings.probe_every, passes.probe),
        ],
        tasks=[passes.place_for_ever, pulses.run],
    )
