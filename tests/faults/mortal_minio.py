"""A MinIO that is killed and hung, and is there again at the same address with what it had acknowledged."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType

from tests.minio_server import started
from trainwright.embedded.archive import free_ports


class MortalMinio:
    """A MinIO at one address, whatever happens to it."""

    def __init__(self, program: str, folder: Path) -> None:
        self.env: dict[str, str] = {}
        """What a process is told that keeps its blobs there."""
        self._program, self._folder = program, folder
        (self._port,) = free_ports(1)
        self._stack = ExitStack()
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

    def __enter__(self) -> "MortalMinio":
        self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _start(self) -> None:
        server, self._process = self._stack.enter_context(started(self._program, self._folder, self._port))
        self.env = server.env
