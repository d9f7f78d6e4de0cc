"""The public door around apps of the test's own: bodies that are too large, and a key file that cannot be read."""

from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from services.gateway.edge import Edge
from services.gateway.keys import REMEMBER, KeyRing
from services.gateway.settings import GatewaySettings
from services.gateway.store import KEYS
from services.gateway.upstream import Upstreams
from tests.harness import API
from tests.runtime_kit import FastClock
from trainwright.runtime.service import Runtime
from trainwright.runtime.settings import RuntimeSettings
from trainwright.storage.sqlite import SqliteStore

KEY = "the-first-key-of-the-tests"
Door = Callable[[ASGIApp], httpx.AsyncClient]


async def reading(scope: Scope, receive: Receive, send: Send) -> None:
    """An owner that reads the whole body, and breaks when its sender leaves: as Starlette's do."""
    body = await Request(scope, receive).body()
    await PlainTextResponse(f"{len(body)} bytes")(scope, receive, send)


async def broken(scope: Scope, receive: Receive, send: Send) -> None:
    """An owner that breaks by itself."""
    raise ZeroDivisionError


@pytest.fixture
def clock() -> FastClock:
    return FastClock()


@pytest.fixture
async def door(tmp_path: Path, clock: FastClock) -> AsyncIterator[Door]:
    """Give a client of the door in front of an owner of tasks; the key's file is `key`."""
    (tmp_path / "key").write_text(KEY)
    store = SqliteStore(tmp_path / "gateway.db", (KEYS,))
    await store.open()

    def open_to(owner: ASGIApp) -> httpx.AsyncClient:
        runtime, settings = Runtime(RuntimeSettings(), apps={"task": owner}), GatewaySettings(body_limit=100)
        keys = KeyRing(store, clock, tmp_path / "key")
        edge = Edge(PlainTextResponse("own"), keys, Upstreams(runtime, settings), settings)
        headers = {"Authorization": f"Bearer {KEY}"}
        return httpx.AsyncClient(transport=httpx.ASGITransport(edge), base_url="http://door", headers=headers)

    yield open_to
    await store.close()


async def in_pieces(count: int) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield b"x" * 30


async def test_an_owner_that_breaks_over_a_body_that_is_cut_off_is_not_heard_but_the_limit_is(door: Door) -> None:
    async with door(reading) as client:
        post = partial(client.post, f"{API}/tasks")
        assert (await post(content=in_pieces(3))).text == "90 bytes"
        answer = await post(content=in_pieces(4))
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    assert "more than 100 bytes" in answer.json()["detail"]


async def test_an_owner_that_breaks_by_itself_is_not_hidden(door: Door) -> None:
    async with door(broken) as client:
        with pytest.raises(ZeroDivisionError):
            await client.post(f"{API}/tasks", content=in_pieces(3))


@pytest.mark.parametrize("content", [None, b"\xff\xfe", b" \n"])
async def test_a_key_file_that_cannot_be_read_leaves_the_key_that_was_known(
    door: Door, clock: FastClock, tmp_path: Path, content: bytes | None
) -> None:
    async with door(reading) as client:

        async def status(key: str = KEY) -> int:
            clock.slept.append(REMEMBER + 1)  # what was looked up before is not believed any more
            return (await client.get(f"{API}/tasks", headers={"Authorization": f"Bearer {key}"})).status_code

        assert await status() == 200
        (tmp_path / "key").unlink()
        if content is not None:
            (tmp_path / "key").write_bytes(content)
        assert await status() == 200
        assert await status("another-key") == 401
        (tmp_path / "key").write_text("another-key")
        assert await status("another-key") == 200
        assert await status() == 401
