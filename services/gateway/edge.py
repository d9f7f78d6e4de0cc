"""The public door: who are you, whose is it, and on to the owner, in this process or in another.

What comes from outside never carries our own headers inwards, and what goes out never carries them outwards.
"""

import time
from collections.abc import Iterable
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.gateway.domain import GATEWAY, OFFSETS, ApiKey, Forbidden, may, owner_of
from services.gateway.keys import KeyRing
from services.gateway.openapi import Document, merged
from services.gateway.readiness import platform_readiness
from services.gateway.settings import GatewaySettings
from services.gateway.upstream import Upstreams, fetch
from trainwright.contracts.errors import NotFound, TooLarge, TrainwrightError
from trainwright.runtime.http import ACTOR_HEADER, INTERNAL_HEADER, PREFIX, problem_response, refuse
from trainwright.runtime.telemetry.edge import note_route
from trainwright.runtime.telemetry.tracing import TRACE, new_traceparent

OURS = b"x-trainwright-"
NOT_INWARDS = frozenset({b"authorization", b"traceparent", b"tracestate", b"sec-websocket-protocol"})
SUBPROTOCOL = "trainwright"
KEY_SUBPROTOCOL = "key."
STREAM = f"{PREFIX}/events"
OPENAPI_FOR = 60.0
"""Seconds that the merged document is kept."""

Headers = list[tuple[bytes, bytes]]


class Edge:
    """Stands in front of every service, the gateway's own app among them."""

    def __init__(self, own: ASGIApp, keys: KeyRing, upstreams: Upstreams, settings: GatewaySettings) -> None:
        self._own = own
        self._keys = keys
        self._upstreams = upstreams
        self._settings = settings
        self._document: tuple[Document, float] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._own(scope, receive, send)
            return
        try:
            app, inner = await self._admit(scope)
        except TrainwrightError as error:
            await refuse(error, scope, receive, send)
            return
        send = _outwards(scope, send, SUBPROTOCOL if SUBPROTOCOL in scope.get("subprotocols", ()) else None)
        if scope["type"] == "http":
            limit = self._settings.upload_limit if _is_upload(scope) else self._settings.body_limit
            await _limited(app, limit, inner, receive, send)
        else:
            await app(inner, receive, send)

    async def _admit(self, scope: Scope) -> tuple[ASGIApp, Scope]:
        """Return the app that answers a request, and the request as that app is to see it.

        Raises:
            TrainwrightError: The request is not let in.
        """
        path: str = scope["path"]
        if scope["type"] == "http" and path in _OPEN:
            asked = scope["method"] in ("GET", "HEAD")
            return partial(_OPEN[path], self) if asked else self._own, scope
        headers = dict(scope["headers"])
        if scope["type"] == "websocket" or path == STREAM:
            _check_origin(headers)
        caller = await self._keys.owner(_key_of(scope, headers))
        owner = owner_of(path.removeprefix(PREFIX)) if path.startswith(f"{PREFIX}/") else None
        if owner is None:
            raise NotFound(f"there is nothing at {path}; everything is below {PREFIX}, see /openapi.json")
        if not may(caller.role, path.removeprefix(PREFIX)):
            raise Forbidden(f"the key {caller.name!r} has the role {caller.role!r}; {path} is for admins")
        app = self._own if owner == GATEWAY else self._upstreams.app(owner)
        return app, {**scope, "headers": self._inwards(scope["headers"], caller), "subprotocols": []}

    def _inwards(self, headers: Iterable[tuple[bytes, bytes]], caller: ApiKey) -> Headers:
        kept = [(n, v) for n, v in headers if n not in NOT_INWARDS and not n.startswith(OURS)]
        ours = {
            INTERNAL_HEADER: self._upstreams.token,
            ACTOR_HEADER: caller.name,
            "traceparent": TRACE.get() or new_traceparent(),
        }
        return kept + [(name.encode(), value.encode("latin-1", "replace")) for name, value in ours.items()]

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._own(scope, receive, send)

    async def _ready(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = "/health/ready"
        ways = {GATEWAY: partial(fetch, self._own, path)}
        ways |= {name: partial(self._upstreams.fetch, name, path) for name in OFFSETS}
        found = await platform_readiness(ways, self._settings.ready_seconds)
        response = JSONResponse(found.model_dump(mode="json"), 503 if found.status == "down" else 200)
        await response(scope, receive, send)

    async def _openapi(self, scope: Scope, receive: Receive, send: Send) -> None:
        await JSONResponse(await self._api_document())(scope, receive, send)

    async def _api_document(self) -> Document:
        now = time.monotonic()
        if self._document is not None and self._document[1] > now:
            return self._document[0]
        answers = {GATEWAY: await fetch(self._own, "/openapi.json")}
        for service in OFFSETS:
            answers[service] = await self._upstreams.fetch(service, "/openapi.json")
        there = {service: answer.json() for service, answer in answers.items() if answer.status_code == 200}
        document = merged(there)
        if len(there) == len(answers):
            self._document = (document, now + OPENAPI_FOR)
        return document


_OPEN: dict[str, Any] = {
    "/health/live": Edge._live,
    "/health/ready": Edge._ready,
    "/openapi.json": Edge._openapi,
}
"""What needs no key."""


def _key_of(scope: Scope, headers: dict[bytes, bytes]) -> str | None:
    """Return the key that a request carries: in its header or, from a browser's WebSocket, as a sub-protocol."""
    scheme, _, key = headers.get(b"authorization", b"").decode("latin-1").strip().partition(" ")
    if scheme.lower() == "bearer" and key.strip():
        return key.strip()
    offered: list[str] = scope.get("subprotocols", [])
    return next((word.removeprefix(KEY_SUBPROTOCOL) for word in offered if word.startswith(KEY_SUBPROTOCOL)), None)


def _check_origin(headers: dict[bytes, bytes]) -> None:
    """A page of another site must not open streams here.

    Raises:
        Forbidden: The page's host is not ours.
    """
    origin = headers.get(b"origin", b"").decode("latin-1")
    if origin and urlsplit(origin).netloc.lower() != headers.get(b"host", b"").decode("latin-1").lower():
        raise Forbidden(f"a page of {origin} may not open streams here")


def _is_upload(scope: Scope) -> bool:
    path: str = scope["path"]
    return path == f"{PREFIX}/files" or path.startswith(f"{PREFIX}/files/")


def _outwards(scope: Scope, send: Send, subprotocol: str | None) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] in ("http.response.start", "websocket.accept", "websocket.http.response.start"):
            note_route(scope, message)
            headers = [(n, v) for n, v in message.get("headers", ()) if not n.lower().startswith(OURS)]
            message = {**message, "headers": headers}
        if message["type"] == "websocket.accept":
            message["subprotocol"] = subprotocol
        await send(message)

    return sending


async def _limited(app: ASGIApp, limit: int, scope: Scope, receive: Receive, send: Send) -> None:
    """Run an app on a body of at most so many bytes; answer 413 in its place when there is more."""
    read, refused, started = 0, False, False

    async def receiving() -> Message:
        nonlocal read, refused
        message = await receive()
        read += len(message.get("body", b""))
        if read > limit:
            refused = True
            return {"type": "http.disconnect"}
        return message

    async def sending(message: Message) -> None:
        nonlocal started
        if not refused or started:
            started = started or message["type"] == "http.response.start"
            await send(message)

    length = dict(scope["headers"]).get(b"content-length", b"")
    if length.isdigit() and int(length) > limit:
        refused = True
    else:
        try:
            await app(scope, receiving, sending)
        except Exception:
            if not refused:  # else it broke because we let go of it
                raise
    if refused and not started:
        problem = TooLarge(f"the body has more than {limit} bytes, which is the limit here").problem()
        await problem_response(problem)(scope, receive, send)
