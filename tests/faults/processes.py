"""Find the processes of one home, and kill them. Linux only: it reads /proc."""

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Found:
    """A process that belongs to a home."""

    pid: int
    command: str
    is_run: bool
    """Whether it is a shim or part of a run, and not of the platform itself."""


def processes_of(home: Path) -> list[Found]:
    """Return every process whose command line, environment or working folder names the home."""
    found = []
    needle = str(home).encode()
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        try:
            command = (folder / "cmdline").read_bytes()
            environment = (folder / "environ").read_bytes()
            working = os.fsencode(os.readlink(folder / "cwd"))
        except OSError:
            continue
        if not any(needle in text for text in (command, environment, working)):
            continue
        is_run = b"shim.py" in command or b"TRAINWRIGHT_RUN_ID=" in environment
        text = command.replace(b"\0", b" ").decode(errors="replace").strip()
        found.append(Found(int(folder.name), text, is_run))
    return found


def kill(home: Path, which: Callable[[Found], bool]) -> list[Found]:
    """Send SIGKILL to the home's processes that fit; return them."""
    killed = []
    for process in processes_of(home):
        if which(process):
            try:
                os.kill(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            killed.append(process)
    return killed
