"""A broker behind a proxy: connections can be cut, slowed down and refused, whoever made them.

The proxy is an event loop on a thread of its own; the broker tells its clients to come through it.
"""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

from trainwright.embedded.archive import free_ports
from trainwright.embedded.kafka import HOST, KafkaProcess

CHUNK = 64 * 1024


class TcpProxy:
    """Passes bytes on between its clients and one server."""

    def __init__(self, port: int, server: int) -> None:
        self.port = port
        self.delay = 0.0
        """Seconds that each piece is held back, in each direction."""
        self.refuses = False
        """Whether who connects is sent away."""
        self._server = server
        self._loop = asyncio.new_event_loop()
        self._open: set[asyncio.StreamWriter] = set()
        self._passing: set[asyncio.Task[None]] = set()
        self._ready = threading.Event()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="tcp-proxy", daemon=True)

    def cut(self) -> int:
        """Break every connection now; return how many sockets that were."""
        count = len(self._open)
        self._loop.call_soon_threadsafe(self._cut)
        return count

    def __enter__(self) -> "TcpProxy":
        self._thread.start()
        self._ready.wait(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(self._stand_between(reader, writer))
            self._passing.add(task)
            task.add_done_callback(self._passing.discard)

        server = await asyncio.start_server(accept, HOST, self.port)
        self._ready.set()
        await self._stop.wait()
        server.close()
        self._cut()
        for task in list(self._passing):
            task.cancel()
        await asyncio.gather(*self._passing, return_exceptions=True)

    def _cut(self) -> None:
        for writer in self._open:
            writer.transport.abort()

    async def _stand_between(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            if self.refuses:
                return
            to_reader, to_writer = await asyncio.open_connection(HOST, self._server)
            self._open.add(to_writer)
            try:
                pumps = [
                    asyncio.create_task(self._pump(reader, to_writer)),
                    asyncio.create_task(self._pump(to_reader, writer)),
                ]
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
                for pump in pumps:
                    pump.cancel()
            finally:
                self._open.discard(to_writer)
                to_writer.close()
        except OSError:
            return
        finally:
            self._open.discard(writer)
            writer.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(CHUNK):
                if self.delay:
                    await asyncio.sleep(self.delay)
                writer.write(data)
                await writer.drain()


class BehindProxy(KafkaProcess):
    """A broker that sends its clients to another port than the one it listens on."""

    def __init__(self, folder: Path, *, port: int, controller_port: int, told: int) -> None:
        super().__init__(folder, port=port, controller_port=controller_port)
        self._told = told

    def _write(self, path: Path, log: str) -> None:
        super()._write(path, log)
        own, told = (f"advertised.listeners=PLAINTEXT://{HOST}:{port}" for port in (self.port, self._told))
        text = path.read_text()
        assert own in text
        path.write_text(text.replace(own, told))


@contextmanager
def proxied_broker(folder: Path) -> Iterator[tuple[KafkaProcess, TcpProxy]]:
    """Have a broker, and the proxy through which everybody reaches it, until the end of the block."""
    port, controller_port, told = free_ports(3)
    with (
        TcpProxy(told, port) as proxy,
        BehindProxy(folder, port=port, controller_port=controller_port, told=told) as broker,
    ):
        yield broker, proxy
