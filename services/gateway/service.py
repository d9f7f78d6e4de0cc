"""Composition of the gateway."""

from functools import partial

from fastapi import APIRouter

from services.gateway.edge import Edge
from services.gateway.keys import KeyRing
from services.gateway.routes import build_router as dead_letters
from services.gateway.settings import GatewaySettings
from services.gateway.store import KEYS
from services.gateway.stream.feed import Feed
from services.gateway.stream.routes import build_router as events
from services.gateway.upstream import Upstreams
from services.gateway.webhooks.courier import Parts
from services.gateway.webhooks.couriers import Couriers
from services.gateway.webhooks.routes import build_router as webhooks
from services.gateway.webhooks.sender import Sender
from services.gateway.webhooks.store import COLLECTIONS
from trainwright.runtime.service import Loop, Runtime, Service

SWEEP_EVERY = 60.0


def build_service(runtime: Runtime) -> Service:
    """Return the gateway."""
    settings = GatewaySettings()
    store = runtime.store("gateway", (KEYS, *COLLECTIONS))
    keys = KeyRing(store, runtime.clock, runtime.settings.admin_key_file)
    upstreams = Upstreams(runtime, settings)
    feed = Feed(runtime.kafka, runtime.clock)
    sender = Sender(settings.webhook_networks, settings.webhooks_timeout_seconds, runtime.clock)
    parts = Parts(store, feed, sender, settings, runtime.clock)
    couriers = Couriers(parts)
    router = APIRouter()
    router.include_router(dead_letters(upstreams))
    router.include_router(events(feed, settings))
    router.include_router(webhooks(parts))
    return Service(
        name="gateway",
        store=store,
        router=router,
        tasks=(couriers.run,),
        loops=(Loop("forget old deliveries", SWEEP_EVERY, couriers.sweep),),
        edge=partial(Edge, keys=keys, upstreams=upstreams, settings=settings),
    )
