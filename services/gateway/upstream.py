"""The services behind the gateway: each an ASGI app, in this process or far away."""

from collections.abc import Mapping
from types import MappingProxyType

import httpx
from starlette.types import ASGIApp

from services.gateway.addresses import Addresses
from services.gateway.domain import OFFSETS
from services.gateway.proxy import RemoteApp
from services.gateway.settings import GatewaySettings
from trainwright.runtime.http import INTERNAL_HEADER
from trainwright.runtime.service import Runtime

NO_HEADERS: Mapping[str, str] = MappingProxyType({})


class Upstreams:
    """Finds a service's app when a request needs it: all of them are there only once all are built."""

    def __init__(self, runtime: Runtime, settings: GatewaySettings) -> None:
        self._runtime = runtime
        self._settings = settings
        self._remote: dict[str, RemoteApp] = {}

    @property
    def token(self) -> str:
        """Return the internal token."""
        return self._runtime.settings.internal_token.get_secret_value()

    def app(self, service: str) -> ASGIApp:
        """Return a service's app."""
        here = self._runtime.apps.get(service)
        if here is not None:
            return here
        if service not in self._remote:
            self._remote[service] = RemoteApp(service, Addresses(self._urls(service)), self._settings)
        return self._remote[service]

    async def fetch(self, service: str, path: str, *, method: str = "GET") -> httpx.Response:
        """Return a service's whole answer; for small ones."""
        return await fetch(self.app(service), path, method=method, headers={INTERNAL_HEADER: self.token})

    def _urls(self, service: str) -> list[str]:
        settings = self._runtime.settings
        return settings.urls_of(service) or [f"http://{settings.host}:{settings.port + OFFSETS[service]}"]


async def fetch(
    app: ASGIApp, path: str, *, method: str = "GET", headers: Mapping[str, str] = NO_HEADERS
) -> httpx.Response:
    """Return an app's whole answer."""
    # The transport alone: a client would log every question.
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    response = await transport.handle_async_request(
        httpx.Request(method, f"http://gateway{path}", headers=headers)
    )
    await response.aread()
    return response
