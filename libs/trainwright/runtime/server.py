"""The HTTP server of a process."""

import contextlib
import socket
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

from trainwright.runtime.environment import Unfit

KEEP_ALIVE_SECONDS = 75
"""Longer than clients and proxies keep an idle connection (httpx 5, nginx 60): a server that closes first resets a
request that is on its way."""


class Server(uvicorn.Server):
    """Uvicorn without signal handlers: the process has one way to stop, and it is ours."""

    def __init__(self, app: ASGIApp, host: str, port: int, prefix: str = "TRAINWRIGHT") -> None:
        self._where = f"{host}:{port} ({prefix}_HOST, {prefix}_PORT)"
        super().__init__(
            uvicorn.Config(
                app,
                host=host,
                port=port,
                log_level="warning",
                access_log=False,
                lifespan="off",
                ws_per_message_deflate=False,  # its windows cost more memory per stream than the short lines save
                timeout_graceful_shutdown=2,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen.

        Raises:
            Unfit: Nobody can listen there.
        """
        try:
            await super().startup(sockets)
        except SystemExit as error:  # uvicorn's own, which the loop would pass on past all that winds down
            raise Unfit(f"cannot listen at {self._where}: {error.__context__}") from error

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
