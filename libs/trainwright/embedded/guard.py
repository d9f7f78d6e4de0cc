"""Start a program that ends when its parent ends: ``python -I -S guard.py PARENT_PID program args...``.

A file of its own, standard library only, run by path: it starts in some 20 ms and no thread of the parent is
involved in what happens between fork and exec. Linux: the kernel sends SIGKILL at the parent's death
(PR_SET_PDEATHSIG survives exec), and this process *becomes* the program. Elsewhere (macOS) there is no such
signal: this process stays, looks five times a second whether its parent is still the same, and passes signals on.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time

PR_SET_PDEATHSIG = 1
POLL_SECONDS = 0.2


def main(argv: list[str]) -> int:
    """Run the program; return its exit code where this process stays beside it."""
    parent, program = int(argv[0]), argv[1:]
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # died before the kernel was told
            return 0
        os.execvp(program[0], program)
    return _watch(parent, program)


def _watch(parent: int, program: list[str]) -> int:
    child = subprocess.Popen(program)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda received, _frame: child.send_signal(received))
    while child.poll() is None:
        if os.getppid() != parent:
            child.kill()
            child.wait()
            return 0
        time.sleep(POLL_SECONDS)
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
