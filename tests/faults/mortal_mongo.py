"""The stand-in for MongoDB, killed with each client that is killed, so that what that had not committed is gone.

A real MongoDB never shows it and ends the transaction; the stand-in would keep it open for everybody
(tests/contract/test_mongo_isolation.py). What was committed it keeps over kills.
"""

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from tests.mongo_server import MongoServer, stand_in
from trainwright.embedded.archive import free_ports


class MortalMongo:
    """A stand-in at one address, whatever happens to it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = free_ports(1)[0]
        self._stack = ExitStack()
        self._server: MongoServer | None = None

    @property
    def url(self) -> str:
        """Return where it answers."""
        return f"mongodb://127.0.0.1:{self._port}"

    def die_too(self) -> None:
        """Be killed, as the client just was, and be there again."""
        assert self._server is not None
        self._server.kill()
        self._stack.close()
        self._start()

    def __enter__(self) -> "MortalMongo":
        self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _start(self) -> None:
        self._server = self._stack.enter_context(stand_in(self._folder, self._port))
