"""The provisioner's HTTP edge: whether it works, and what it sees. Nobody commands it over HTTP."""

from dataclasses import asdict

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from services.provisioner.provisioning import Provisioner


def build_app(provisioner: Provisioner) -> Starlette:
    """Return `/health/live`, `/health/ready` and `/state`."""

    async def live(_: Request) -> JSONResponse:
        return JSONResponse({"status": "ok"})

    async def ready(_: Request) -> JSONResponse:
        said = provisioner.said
        words = {"status": "ok" if said.ok else "degraded", "service": "provisioner", "notes": list(said.notes)}
        return JSONResponse(words)

    async def state(_: Request) -> JSONResponse:
        said = asdict(provisioner.said)
        return JSONResponse({**said, "at": said["at"].isoformat()})

    return Starlette(routes=[Route("/health/live", live), Route("/health/ready", ready), Route("/state", state)])
