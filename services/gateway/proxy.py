"""A service in another process, as an ASGI app: HTTP streamed both ways, WebSockets relayed message by message.

Nothing is buffered but what the connections themselves hold: who reads slowly slows down who writes.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from functools import cached_property

import httpx
from starlette.types import Receive, Scope, Send
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from services.gateway.addresses import Addresses
from services.gateway.settings import GatewaySettings
from trainwright.contracts.errors import Unavailable
from trainwright.runtime.http import refuse

Headers = list[tuple[bytes, bytes]]

HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization te trailer transfer-encoding upgrade".split()
)
OF_A_HANDSHAKE = frozenset(
    b"sec-websocket-key sec-websocket-version sec-websocket-extensions sec-websocket-protocol host".split()
)
LARGEST_MESSAGE = 1024**2
SENDABLE = frozenset({1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014})


class RemoteApp:
    """One service at its addresses: what one of them certainly has not begun is asked of the next."""

    def __init__(self, service: str, addresses: Addresses, settings: GatewaySettings) -> None:
        self._service = service
        self._addresses = addresses
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if scope["type"] == "websocket":
                await self._relay(scope, receive, send)
            else:
                await self._forward(scope, receive, send)
        except Unavailable as error:
            await refuse(error, scope, receive, send)

    @cached_property
    def _transport(self) -> httpx.AsyncHTTPTransport:
        # Kept for less long than the other side does (5 s), so that no request meets a closing connection.
        limits = httpx.Limits(max_connections=1000, max_keepalive_connections=50, keepalive_expiry=4)
        return httpx.AsyncHTTPTransport(limits=limits, trust_env=False)

    async def _forward(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self._ask(scope, receive)
        try:
            headers = _without(response.headers.raw, HOP_BY_HOP)
            await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
            await self._copy(response, receive, send)
        finally:
            await response.aclose()

    async def _ask(self, scope: Scope, receive: Receive) -> httpx.Response:
        """Return an answer: of the next address if nothing can have begun, or if asking twice changes nothing."""
        repeatable = scope["method"] in ("GET", "HEAD") and not _has_body(scope)
        last: Exception = OSError("there is no address")
        for url in self._addresses.in_turn():
            request = httpx.Request(
                scope["method"],
                url + _target(scope),
                headers=_without(scope["headers"], HOP_BY_HOP),
                content=_body(receive) if _has_body(scope) else None,
                extensions={"timeout": self._timeouts},
            )
            try:
                return await self._transport.handle_async_request(request)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                last = error
            except (httpx.NetworkError, httpx.RemoteProtocolError) as error:
                last = error
                if not repeatable:
                    break
            except httpx.TransportError as error:
                raise self._silent(error) from error
            self._addresses.leave_out(url)
        raise self._silent(last) from last

    async def _copy(self, response: httpx.Response, receive: Receive, send: Send) -> None:
        leaving = asyncio.create_task(_left(receive))
        copying = asyncio.create_task(_copy_body(response, send))
        try:
            await asyncio.wait([leaving, copying], return_when=asyncio.FIRST_COMPLETED)
        finally:
            leaving.cancel()
            if not copying.done():
                copying.cancel()
        if copying.done():
            copying.result()

    async def _relay(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()  # websocket.connect
        upstream = await self._connected(scope)
        async with upstream:
            await send({"type": "websocket.accept"})
            await _pump(upstream, receive, send)

    async def _connected(self, scope: Scope) -> ClientConnection:
        headers = _without(scope["headers"], HOP_BY_HOP | OF_A_HANDSHAKE)
        last: Exception = OSError("there is no address")
        for url in self._addresses.in_turn():
            try:
                return await connect(
                    url.replace("http", "ws", 1) + _target(scope),
                    additional_headers=[
                        (name.decode("latin-1"), value.decode("latin-1")) for name, value in headers
                    ],
                    compression=None,
                    open_timeout=self._settings.connect_seconds,
                    max_size=LARGEST_MESSAGE,
                    proxy=None,
                )
            except (InvalidHandshake, OSError, TimeoutError) as error:
                last = error
                self._addresses.leave_out(url)
        raise self._silent(last) from last

    def _silent(self, error: Exception) -> Unavailable:
        cause = str(error) or type(error).__name__
        return Unavailable(f"the {self._service} service does not answer at {self._addresses}: {cause}")

    @property
    def _timeouts(self) -> dict[str, float]:
        connecting, answering = self._settings.connect_seconds, self._settings.answer_seconds
        return {"connect": connecting, "pool": connecting, "read": answering, "write": answering}


async def _pump(upstream: ClientConnection, receive: Receive, send: Send) -> None:
    up = asyncio.create_task(_pump_up(upstream, receive))
    down = asyncio.create_task(_pump_down(upstream, send))
    try:
        await asyncio.wait([up, down], return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (up, down):
            task.cancel()
        await asyncio.gather(up, down, return_exceptions=True)


async def _pump_up(upstream: ClientConnection, receive: Receive) -> None:
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            return
        text = message.get("text")
        try:
            await upstream.send(message["bytes"] if text is None else text)
        except ConnectionClosed:
            await upstream.wait_closed()
            await asyncio.Event().wait()  # the way down says why


async def _pump_down(upstream: ClientConnection, send: Send) -> None:
    try:
        async for message in upstream:
            kind = "text" if isinstance(message, str) else "bytes"
            await send({"type": "websocket.send", kind: message})
    except ConnectionClosed:
        pass
    code = upstream.close_code or 1011
    code = code if code in SENDABLE or 3000 <= code < 5000 else 1011
    await send({"type": "websocket.close", "code": code, "reason": upstream.close_reason or ""})


def _target(scope: Scope) -> str:
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    query: bytes = scope["query_string"]
    return (raw + (b"?" + query if query else b"")).decode("latin-1")


def _without(headers: Iterable[tuple[bytes, bytes]], names: frozenset[bytes]) -> Headers:
    return [(name, value) for name, value in headers if name.lower() not in names]


def _has_body(scope: Scope) -> bool:
    names = dict(scope["headers"])
    return b"transfer-encoding" in names or names.get(b"content-length", b"0") != b"0"


async def _body(receive: Receive) -> AsyncIterator[bytes]:
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise httpx.WriteError("the sender left")
        if chunk := message.get("body", b""):
            yield chunk
        if not message.get("more_body", False):
            return


async def _copy_body(response: httpx.Response, send: Send) -> None:
    async for chunk in response.aiter_raw():
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
