"""How all services are, as one answer."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Literal

import httpx
from pydantic import ValidationError

from trainwright.contracts.base import Contract
from trainwright.runtime.health import Readiness

Ask = Callable[[], Awaitable[httpx.Response]]


class PlatformReadiness(Contract):
    """`GET /health/ready`: `ok` when every service is; `down` when one is; else `degraded`."""

    status: Literal["ok", "degraded", "down"]
    services: list[Readiness]


async def platform_readiness(services: Mapping[str, Ask], within: float) -> PlatformReadiness:
    """Return how each service says that it is; one that does not say it in time is down."""
    found = await asyncio.gather(*(_one(name, ask, within) for name, ask in services.items()))
    states = {readiness.status for readiness in found}
    status: Literal["ok", "degraded", "down"] = "ok" if states == {"ok"} else "degraded"
    return PlatformReadiness(status="down" if "down" in states else status, services=found)


async def _one(name: str, ask: Ask, within: float) -> Readiness:
    try:
        response = await asyncio.wait_for(ask(), within)
        return Readiness.model_validate_json(response.content)
    except TimeoutError:
        detail = f"says nothing for {within:g} s"
    except ValidationError:
        detail = "does not answer"
    return Readiness(service=name, status="down", store=False, kafka=False, detail=detail)
