"""The stand-in for MongoDB, killed with each client that is killed, so that what that had not committed is gone.

A real MongoDB never shows it and ends the transaction; the stand-in would keep it open for everybody
(tests/contract/test_mongo_isolation.py). What was committed it keeps over kills.
"""

from pathlib import Path

from tests.faults.mortal import Mortal
from tests.mongo_server import MongoServer, stand_in


class MortalMongo(Mortal):
    """A stand-in at one address, whatever happens to it."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
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

    def _start(self) -> None:
        self._server = self._stack.enter_context(stand_in(self._folder, self._port))
