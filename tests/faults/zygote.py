"""Start a program again and again in a tenth of the time: a process that has imported it forks for each start.

    python -m tests.faults.zygote MODULE      # reads {"argv": […], "env": {…}}, answers pid and exit status

What is started is a process of its own in every respect but its imports. Nothing here runs a thread, so forking
is safe. Not here: what is started, and what is done to it.
"""

import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from trainwright import crash

ROOT = Path(__file__).resolve().parents[2]
LONGEST = 120.0


class Zygote:
    """A program that can be started in no time; one process at a time."""

    def __init__(self, module: str, log: Path) -> None:
        self._log = log.open("ab")
        self._child = 0
        self._parent = subprocess.Popen(
            [sys.executable, "-P", "-m", "tests.faults.zygote", module],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )

    def run(
        self,
        *argv: str,
        env: Mapping[str, str] | None = None,
        kill_after: float | None = None,
        meanwhile: Callable[[int], None] = lambda pid: None,
    ) -> int:
        """Run the program to its end, or for so long; return its exit status, negative for a signal.

        Raises:
            TimeoutError: It did not end by itself; it was killed.
        """
        assert self._parent.stdin is not None
        self._parent.stdin.write(json.dumps({"argv": argv, "env": dict(env or {})}) + "\n")
        self._parent.stdin.flush()
        pid, late = int(self._answer()), threading.Event()
        self._child = pid

        def end() -> None:
            with suppress(ProcessLookupError):  # it has ended just now
                if kill_after is None:
                    late.set()
                    os.kill(pid, signal.SIGUSR1)  # it says where it stands
                    time.sleep(1)
                os.kill(pid, signal.SIGKILL)

        timer = threading.Timer(kill_after or LONGEST, end)
        timer.start()
        try:
            meanwhile(pid)
            status = int(self._answer())
            self._child = 0
        finally:
            timer.cancel()
        if late.is_set():
            raise TimeoutError(f"{argv} did not end in {LONGEST:.0f} s")
        return status

    def __enter__(self) -> "Zygote":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._child:  # nobody waits for it any more
            with suppress(ProcessLookupError):
                os.kill(self._child, signal.SIGKILL)
        with self._parent:  # closes its pipes, which is how it knows, and waits for it
            pass
        self._log.close()

    def _answer(self) -> str:
        assert self._parent.stdout is not None
        line = self._parent.stdout.readline()
        assert line, "the zygote has ended"
        return line


def _become(run: Callable[[list[str]], None], request: dict[str, Any]) -> None:
    """In the forked process: be the program; never returns."""
    code = 1
    try:
        os.environ.update(request["env"])
        if words := request["env"].get(crash.VARIABLE):
            crash.arm(words, request["env"].get(crash.NOTES))
        run(request["argv"])
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    """Start what is asked for, until nobody asks any more."""
    module = importlib.import_module(sys.argv[1])
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _become(module.run, json.loads(line))
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()
        _, status = os.waitpid(pid, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
