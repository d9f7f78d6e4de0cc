"""A service's HTTP edge, watched: requests counted, timed and traced; `/metrics` is answered without a key."""

import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from trainwright.runtime.telemetry.figures import count, move, observe
from trainwright.runtime.telemetry.names import HTTP_REQUESTS, HTTP_SECONDS, REQUEST, WEBSOCKETS
from trainwright.runtime.telemetry.scraping import Scrape
from trainwright.runtime.telemetry.tracing import TRACE, TRACING, new_traceparent

ROUTE_HEADER = b"x-trainwright-route"
"""An answer's route as its owner names it; the gateway takes its own figures' label from it, and takes it away."""
METRICS_PATH = "/metrics"
UNMATCHED = "unmatched"
_METHODS = frozenset(["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
_SEEN = "trainwright.route"


class Observed:
    """Stands before everything else of a service's app."""

    def __init__(self, app: ASGIApp, service: str, scrape: Scrape, *, continues: bool) -> None:
        """Watch an app; ``continues`` the traces that requests carry, or begins one for each."""
        self._app = app
        self._service = service
        self._scrape = scrape
        self._continues = continues
        move(WEBSOCKETS, service, by=0)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._stream(scope, receive, send)
        elif scope["type"] != "http" or scope["path"].startswith("/health/"):
            await self._app(scope, receive, send)
        elif scope["path"] == METRICS_PATH and scope["method"] in ("GET", "HEAD"):
            await (await self._scrape.answer())(scope, receive, send)
        else:
            await self._request(scope, receive, send)

    async def _stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        move(WEBSOCKETS, self._service, by=1)
        try:
            await self._app(scope, receive, send)
        finally:
            move(WEBSOCKETS, self._service, by=-1)

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        method = scope["method"] if scope["method"] in _METHODS else "OTHER"
        seen = _Seen(time.perf_counter())

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                seen.status, seen.took = message["status"], time.perf_counter() - seen.started
            await send(message)

        parent = _header(scope, b"traceparent") if self._continues else None
        span = TRACING.begin(REQUEST, self._service, method, parent, dict)
        TRACE.set(span.traceparent or new_traceparent())
        error: BaseException | None = None
        try:
            await self._app({**scope, _SEEN: seen}, receive, sending)
        except BaseException as raised:
            error = raised
            raise
        finally:
            count(HTTP_REQUESTS, self._service, method, seen.route, f"{seen.status // 100}xx")
            took = time.perf_counter() - seen.started if seen.took is None else seen.took
            observe(HTTP_SECONDS, self._service, method, seen.route, value=took)
            named = REQUEST.name.format(method=method, route=seen.route)
            span.rename(named, lambda: _attributes(method, seen))
            span.end(error or (str(seen.status) if seen.status >= 500 else None))


class _Seen:
    """What is known of a request so far."""

    __slots__ = ("route", "started", "status", "took")

    def __init__(self, started: float) -> None:
        self.started = started
        self.status = 500
        self.took: float | None = None
        self.route = UNMATCHED


def says_route(app: ASGIApp, prefix: str) -> ASGIApp:
    """Return a FastAPI app that says, with each answer, which of its routes it was: as a template."""

    async def saying(scope: Scope, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start" and (route := _template(scope, prefix)) is not None:
                headers = [*message.get("headers", ()), (ROUTE_HEADER, route.encode("latin-1", "replace"))]
                message = {**message, "headers": headers}
                note_route(scope, message)
            await send(message)

        await app(scope, receive, sending if scope["type"] == "http" else send)

    return saying


def note_route(scope: Scope, message: Message) -> None:
    """Take over the route that an answer names, for the figures of the request in this scope."""
    seen = scope.get(_SEEN)
    if seen is not None:
        route = dict(message.get("headers", ())).get(ROUTE_HEADER, b"").decode("latin-1")
        seen.route = route or seen.route


def _template(scope: Scope, prefix: str) -> str | None:
    # The route that was chosen names itself without what it was included under.
    route: str | None = getattr(scope.get("route"), "path", None)
    if route is None or route.startswith(prefix) or not scope["path"].startswith(prefix):
        return route
    return prefix + route


def _header(scope: Scope, name: bytes) -> str | None:
    value = dict(scope["headers"]).get(name)
    return None if value is None else value.decode("latin-1")


def _attributes(method: str, seen: _Seen) -> dict[str, str | int | None]:
    return {"http.request.method": method, "http.route": seen.route, "http.response.status_code": seen.status}
