"""A MinIO that is killed and hung, and is there again at the same address with what it had acknowledged."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.faults.mortal import Mortal
from tests.minio_server import started


class MortalMinio(Mortal):
    """A MinIO at one address, whatever happens to it."""

    def __init__(self, program: str, folder: Path) -> None:
        super().__init__()
        self.env: dict[str, str] = {}
        """What a process is told that keeps its blobs there."""
        self._program, self._folder = program, folder
        self._process: subprocess.Popen[bytes] | None = None

    def die(self) -> None:
        """Be killed, and be there again."""
        self._stack.close()  # that is how it ends: SIGKILL
        self._start()

    @contextmanager
    def hung(self) -> Iterator[None]:
        """Answer nothing during the block."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self._process.pid, signal.SIGCONT)

    def _start(self) -> None:
        server, self._process = self._stack.enter_context(started(self._program, self._folder, self._port))
        self.env = server.env
