"""Composition of the gateway."""

from functools import partial

from services.gateway.edge import Edge
from services.gateway.keys import KeyRing
from services.gateway.routes import build_router
from services.gateway.settings import GatewaySettings
from services.gateway.store import KEYS
from services.gateway.upstream import Upstreams
from trainwright.runtime.service import Runtime, Service


def build_service(runtime: Runtime) -> Service:
    """Return the gateway."""
    settings = GatewaySettings()
    store = runtime.store("gateway", (KEYS,))
    keys = KeyRing(store, runtime.clock, runtime.settings.admin_key_file)
    upstreams = Upstreams(runtime, settings)
    return Service(
        name="gateway",
        store=store,
        router=build_router(upstreams),
        edge=partial(Edge, keys=keys, upstreams=upstreams, settings=settings),
    )
