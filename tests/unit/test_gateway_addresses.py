"""Several replicas behind the gateway: who does not answer is left out, what may be asked again is."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from services.gateway.addresses import Addresses
from services.gateway.proxy import RemoteApp
from services.gateway.settings import GatewaySettings
from trainwright.embedded.archive import free_ports
from trainwright.runtime.settings import RuntimeSettings


@asynccontextmanager
async def replica(name: str, *, hangs_up: bool = False) -> AsyncIterator[tuple[str, list[str]]]:
    """Run an HTTP server that answers with its name, or hangs up when it has heard a request; give its address."""
    heard: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        heard.append(head.decode().split(" ")[0])
        if not hangs_up:
            answer = f"HTTP/1.1 200 OK\r\nContent-Length: {len(name)}\r\nConnection: close\r\n\r\n{name}"
            writer.write(answer.encode())
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", heard


def nobody() -> str:
    """Return an address where nobody listens."""
    return f"http://127.0.0.1:{free_ports(1)[0]}"


def through(*urls: str) -> httpx.AsyncClient:
    """Return a client of a service at these addresses, as the gateway passes requests on."""
    app = RemoteApp("task", Addresses(urls), GatewaySettings())
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


def test_addresses_are_named_with_commas() -> None:
    settings = RuntimeSettings(task_url="http://a:1/, http://b:2 ,")
    assert settings.urls_of("task") == ["http://a:1", "http://b:2"]
    assert settings.urls_of("log") == []
