"""A proxy before a MongoDB that breaks connections exactly at a commit: before or after the server got it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

BEFORE, AFTER, LOST = "before", "after", "lost"
"""Cut before the server gets a commit, or after it did, or as a failover does: the transaction is lost with it."""
_COMMIT, _ABORT = b"\x10commitTransaction\x00", b"\x10abortTransaction\x00"
_LENGTH, _DOCUMENT = 4, 21
QUICK = "directConnection=true&serverSelectionTimeoutMS=300&connectTimeoutMS=700&socketTimeoutMS=700"


class MongoProxy:
    """Passes messages on, until a plan says otherwise."""

    def __init__(self, url: str) -> None:
        server = urlsplit(url)
        self._host, self._port = server.hostname, server.port or 27017
        self.url = ""
        self.plan: list[str] = []
        """What to do at each of the next commits."""
        self.stays_down = False
        """From the next cut on nobody gets through, until `heal`."""
        self.silent = False
        """Take messages and answer nothing."""
        self.commits = 0
        self.has_cut = asyncio.Event()
        self._is_down = False

    def heal(self) -> None:
        """Let everybody through again."""
        self._is_down = self.stays_down = self.silent = False
        self.plan = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Stand between one client and the server, until one of them goes or the plan says so."""
        try:
            if self._is_down:
                return  # a client is accepted and sent away
            to_reader, to_writer = await asyncio.open_connection(self._host, self._port)
            dropped = asyncio.Event()
            pumps = [
                asyncio.create_task(self._requests(reader, to_writer, dropped)),
                asyncio.create_task(self._answers(to_reader, writer, dropped)),
            ]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                to_writer.close()
        finally:
            writer.close()

    async def _requests(
        self, reader: asyncio.StreamReader, server: asyncio.StreamWriter, dropped: asyncio.Event
    ) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while not self._is_down:
                message = await _message(reader)
                if self.silent:
                    continue
                if _COMMIT in message:
                    self.commits += 1
                    cut = self.plan.pop(0) if self.plan else None
                    self._is_down = self._is_down or (cut is not None and self.stays_down)
                    if cut is not None:
                        self.has_cut.set()
                    if cut == BEFORE:
                        return
                    if cut in (AFTER, LOST):
                        dropped.set()
                    if cut == LOST:
                        message = _as_abort(message)
                server.write(message)
                await server.drain()
                if dropped.is_set():
                    await asyncio.sleep(30)  # the answer ends it

    async def _answers(
        self, server: asyncio.StreamReader, writer: asyncio.StreamWriter, dropped: asyncio.Event
    ) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                message = await _message(server)
                if dropped.is_set():
                    return
                writer.write(message)
                await writer.drain()


def _as_abort(commit: bytes) -> bytes:
    """Return a commit as the abort of the same transaction: both lengths in it shrink by the letter."""
    found = bytearray(commit.replace(_COMMIT, _ABORT))
    for place in (0, _DOCUMENT):
        length = int.from_bytes(found[place : place + _LENGTH], "little") - len(_COMMIT) + len(_ABORT)
        found[place : place + _LENGTH] = length.to_bytes(_LENGTH, "little")
    return bytes(found)


async def _message(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readexactly(_LENGTH)
    return head + await reader.readexactly(int.from_bytes(head, "little") - _LENGTH)


@asynccontextmanager
async def mongo_proxy(url: str) -> AsyncIterator[MongoProxy]:
    """Have a proxy until the end of the block."""
    proxy, serving = MongoProxy(url), set[asyncio.Task[None]]()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.create_task(proxy.serve(reader, writer)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    proxy.url = f"mongodb://127.0.0.1:{server.sockets[0].getsockname()[1]}/?{QUICK}"
    try:
        yield proxy
    finally:
        server.close()
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
