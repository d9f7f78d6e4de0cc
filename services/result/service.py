"""Composition of the result service."""

from services.result.handlers import REGISTER, SWEEP, Registrar
from services.result.reactions import REACTIONS
from services.result.rendering import Artist, Renderer
from services.result.routes import build_router
from services.result.settings import ResultSettings
from services.result.store import COLLECTIONS
from services.result.sweeping import Sweeper
from trainwright.contracts.topics import ATTEMPT, TASK
from trainwright.runtime.service import Loop, Runtime, Service


def build_service(runtime: Runtime) -> Service:
    """Return the result service."""
    settings = ResultSettings()
    store, blobs = runtime.store("result", COLLECTIONS), runtime.blobs()
    renderer = Renderer(store, blobs, Artist(settings), settings, runtime.clock)
    sweeper = Sweeper(store, blobs, settings, runtime.clock)
    return Service(
        name="result",
        store=store,
        reactions=REACTIONS,
        at_leisure=(ATTEMPT, TASK),
        router=build_router(store, blobs, settings),
        effects={REGISTER: Registrar(store, blobs), SWEEP: sweeper},
        loops=[Loop("sweep", settings.sweep_every, sweeper.sweep_all)],
        tasks=[renderer.run],
    )
