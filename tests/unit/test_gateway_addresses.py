"""Several replicas behind the gateway: who does not answer is left out, what may be asked again is."""

import asyncio
from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from websockets.asyncio.server import ServerConnection, serve

from services.gateway.addresses import Addresses
from services.gateway.proxy import RemoteApp
from services.gateway.settings import GatewaySettings
from trainwright.embedded.archive import free_ports
from trainwright.runtime.settings import RuntimeSettings


@asynccontextmanager
async def replica(
    name: str, *, hangs_up: bool = False, says_nothing: bool = False
) -> AsyncIterator[tuple[str, list[str]]]:
    """Run an HTTP server that answers with its name, or hangs up or is silent when it has heard a request; give
    its address.
    """
    heard: list[str] = []
    serving: list[asyncio.Task[None]] = []

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.append(asyncio.create_task(answer(reader, writer)))

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        heard.append(head.decode().split(" ")[0])
        if says_nothing:
            await reader.read()  # until the other side gives up
        elif not hangs_up:
            text = f"HTTP/1.1 200 OK\r\nContent-Length: {len(name)}\r\nConnection: close\r\n\r\n{name}"
            writer.write(text.encode())
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", heard
        await asyncio.gather(*serving)


def nobody() -> str:
    """Return an address where nobody listens."""
    return f"http://127.0.0.1:{free_ports(1)[0]}"


def through(*urls: str, **settings: float) -> httpx.AsyncClient:
    """Return a client of a service at these addresses, as the gateway passes requests on."""
    app = RemoteApp("task", Addresses(urls), GatewaySettings(**settings))  # type: ignore[arg-type]
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway")


async def test_replicas_take_turns() -> None:
    async with replica("a") as (a, _), replica("b") as (b, _), through(a, b) as api:
        assert {(await api.get("/x")).text for _ in range(2)} == {"a", "b"}


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_one_that_takes_no_connection_is_left_out_for_every_request(method: str) -> None:
    async with replica("b") as (b, heard), through(nobody(), b) as api:
        answers = [await api.request(method, "/x", content=b"abc") for _ in range(4)]
        assert [answer.text for answer in answers] == ["b"] * 4
        assert heard == [method] * 4


async def test_one_that_hangs_up_is_asked_again_only_for_what_changes_nothing() -> None:
    async with replica("a", hangs_up=True) as (a, deaf), replica("b") as (b, heard), through(b, a) as api:
        assert (await api.get("/x")).text == "b"
        assert deaf == ["GET"]
    async with replica("a", hangs_up=True) as (a, deaf), replica("b") as (b, heard), through(b, a) as api:
        assert (await api.post("/x", content=b"abc")).status_code == 503, "it may have been done"
        assert (deaf, heard) == (["POST"], [])


async def test_all_silent_is_said_with_their_addresses() -> None:
    one, two = nobody(), nobody()
    async with through(one, two) as api:
        answer = await api.get("/x")
        assert answer.status_code == 503
        assert one in answer.json()["detail"]
        assert two in answer.json()["detail"]


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_one_that_takes_a_request_and_says_nothing_is_not_asked_twice(method: str) -> None:
    """It may be at work: a second one would only do it once more."""
    async with replica("a", says_nothing=True) as (a, deaf), replica("b") as (b, heard):
        async with through(b, a, answer_seconds=0.2) as api:
            answer = await api.request(method, "/x", content=b"abc" if method == "POST" else None)
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
        assert "the task service does not answer" in answer.json()["detail"]
        assert "ReadTimeout" in answer.json()["detail"]
        assert (deaf, heard) == ([method], [])


async def test_a_client_that_speaks_to_a_closed_stream_still_hears_why_it_was_closed() -> None:
    """What it says meets the closed connection before what came last has reached it."""
    closed = asyncio.Event()

    async def owner(socket: ServerConnection) -> None:
        await socket.send("last words")
        await socket.close(4001, "enough")
        closed.set()

    slow, sent, told = asyncio.Event(), [], asyncio.Event()

    async def receive() -> dict[str, Any]:
        if not told.is_set():
            told.set()
            return {"type": "websocket.connect"}
        await closed.wait()
        if slow.is_set():
            await asyncio.Event().wait()
        slow.set()  # only now the client takes what was sent to it
        return {"type": "websocket.receive", "text": "are you there?"}

    async def send(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "websocket.send":
            await slow.wait()
            await asyncio.sleep(0.05)
        sent.append(message)

    async with serve(owner, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
        app = RemoteApp("monitor", Addresses([url]), GatewaySettings())
        scope = {"type": "websocket", "path": "/x", "query_string": b"", "headers": []}
        await asyncio.wait_for(app(scope, receive, send), 80)
    assert [message["type"] for message in sent] == ["websocket.accept", "websocket.send", "websocket.close"]
    assert (sent[1]["text"], sent[2]["code"], sent[2]["reason"]) == ("last words", 4001, "enough")


def test_addresses_are_named_with_commas() -> None:
    settings = RuntimeSettings(task_url="http://a:1/, http://b:2 ,")
    assert settings.urls_of("task") == ["http://a:1", "http://b:2"]
    assert settings.urls_of("log") == []
