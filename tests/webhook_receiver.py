"""A receiver of webhooks that tests can have fail, hang, lead elsewhere, or be gone."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from examples.receive_webhooks import is_genuine

__all__ = ["Receiver", "is_genuine", "receiving"]


@dataclass(slots=True)
class Receiver:
    """What came, and what is answered: the first of ``answers`` (the last one stays), None for nothing at all."""

    port: int = 0
    answers: list[int | None] = field(default_factory=lambda: [204])
    taken: list[dict[str, Any]] = field(default_factory=list)
    requests: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    secret: str = ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    def versions(self) -> list[tuple[str, int]]:
        """Return subjects and versions of what was taken, in order of first arrival."""
        return list(dict.fromkeys((event["subject"], event["version"]) for event in self.taken))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
                # Values that matter keep their case.
                headers |= {line.split(": ", 1)[0].lower(): line.split(": ", 1)[1] for line in head[1:] if line}
                body = await reader.readexactly(int(headers["content-length"]))
                self.paths.append(head[0].split(" ")[1])
                self.requests.append((headers, body))
                answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
                if answer is None:
                    await asyncio.sleep(3600)
                if answer in (200, 204):
                    assert not self.secret or is_genuine(self.secret, headers, body), "the signature is not ours"
                    self.taken.append(json.loads(body))
                where = "location: /elsewhere\r\n" if answer == 302 else ""
                writer.write(f"HTTP/1.1 {answer} x\r\n{where}content-length: 0\r\n\r\n".encode())
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def receiving(*answers: int | None) -> AsyncIterator[Receiver]:
    """Run a receiver until the end of the block."""
    receiver = Receiver(answers=list(answers) or [204])
    connections: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.add(asyncio.create_task(receiver.serve(reader, writer)))

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        server.close()
        for task in connections:
            task.cancel()
        found = await asyncio.gather(*connections, return_exceptions=True)
        wrong = [error for error in found if isinstance(error, AssertionError)]
        assert not wrong, wrong
