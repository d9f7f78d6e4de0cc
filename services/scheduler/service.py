"""Composition of the scheduler."""

from services.scheduler.figures import Figures
from services.scheduler.handlers import Handlers
from services.scheduler.leases import Leases, voices
from services.scheduler.passes import Passes
from services.scheduler.reactions import reactions
from services.scheduler.routes import build_router
from services.scheduler.settings import SchedulerSettings
from services.scheduler.store import COLLECTIONS
from services.scheduler.upkeep import Upkeep
from trainwright.contracts.topics import PULSE
from trainwright.runtime.pulse import PulseSender
from trainwright.runtime.service import Loop, Runtime, Service


def build_service(runtime: Runtime) -> Service:
    """Return the scheduler."""
    settings = SchedulerSettings()
    clock = runtime.clock
    store = runtime.store("scheduler", COLLECTIONS)
    leases = Leases(clock, settings, voices(runtime.kafka.partitions(PULSE), clock))
    pulses = PulseSender("scheduler", runtime.kafka, clock)
    passes = Passes(store, leases, settings, clock, pulses, leads=False)
    upkeep = Upkeep(passes)
    handlers = Handlers(leases, settings, passes.note, passes.board.has_its_place, passes.board.heeds_stop)
    return Service(
        name="scheduler",
        store=store,
        reactions=reactions(handlers),
        follow_up=passes.follow_up,
        router=build_router(passes, leases),
        loops=[
            Loop("watch for lost workers", settings.watch_every, passes.watch),
            Loop("sweep for lost attempts", 1, passes.sweep),
            Loop("keep what was used, say losses again, forget what is gone", 60, upkeep.run),
            Loop("probe", settings.probe_every, passes.probe),
        ],
        tasks=[passes.place_for_ever, pulses.run, leases.while_leading],
        exclusive=True,
        figures=Figures(store).read,
    )
