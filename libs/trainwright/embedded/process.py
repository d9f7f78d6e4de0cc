"""A child process that ends with its parent, its log file, and what the system says about a process.

Not here: which processes there are, and when they are started again (`supervisor`).
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

GUARD = Path(__file__).with_name("guard.py")
LOG_BYTES = 10 * 2**20


def spawn(
    command: Sequence[str],
    *,
    log: Path,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
    nice: int = 0,
) -> "subprocess.Popen[bytes]":
    """Start a program that is killed when the calling *thread* ends; its output is appended to ``log``.

    It gets a session of its own, so that Ctrl-C in a terminal reaches only the parent, who stops it in order.
    """
    prefix = ["nice", "-n", str(nice)] if nice else []
    with open(log, "ab") as output:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", str(GUARD), str(os.getpid()), *prefix, *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=None if environment is None else dict(environment),
            cwd=folder,
            start_new_session=True,
        )


def stop(process: "subprocess.Popen[bytes]", seconds: float) -> int:
    """Ask a process to end, kill it after ``seconds``; return its exit code."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            kill_group(process.pid)
    return process.wait()


def kill_group(leader: int) -> None:
    """Kill a process made by `spawn` with what it keeps in its group: the guard, where that stays beside it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def rotate(log: Path, limit: int = LOG_BYTES) -> None:
    """Move a log that has grown over ``limit`` bytes aside; one older log is kept."""
    with contextlib.suppress(FileNotFoundError):
        if log.stat().st_size > limit:
            log.replace(log.with_suffix(log.suffix + ".1"))


def tail(log: Path, lines: int = 15, limit: int = 16_384) -> str:
    """Return the last lines of a log, at most ``limit`` bytes of it; empty when there is none."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - limit))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""


def started(pid: int) -> str | None:
    """Return a mark of when a process began, None when it is gone: pid and mark name one process for ever."""
    if sys.platform.startswith("linux"):
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        return None if fields[0] in "ZX" else fields[19]
    state, _, began = _ps(pid, "stat=,lstart=").partition(" ")
    return None if not state or state.startswith("Z") else began.strip()


def memory(pid: int) -> int | None:
    """Return the bytes of memory a process uses: its proportional share on Linux, else its resident set."""
    if sys.platform.startswith("linux"):
        try:
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    return int(line.split()[1]) * 1024
        except OSError:
            return None
    resident = [_ps(one, "rss=") for one in (pid, *below(pid)[:1])]  # the guard and its program
    return sum(int(size) * 1024 for size in resident if size.isdigit()) or None


def below(root: int) -> list[int]:
    """Return the pids of a process's descendants, parents first."""
    children: dict[int, list[int]] = {}
    for pid, parent in _parents():
        children.setdefault(parent, []).append(pid)
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found[1:]


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    """Send a signal to a process that may be gone."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def wait_gone(pid: int, mark: str, seconds: float) -> bool:
    """Wait until the process that began at ``mark`` is gone; return whether it is."""
    deadline = time.monotonic() + seconds
    while started(pid) == mark:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _ps(pid: int, columns: str) -> str:
    found = subprocess.run(["ps", "-o", columns, "-p", str(pid)], capture_output=True, text=True, check=False)
    return found.stdout.strip()


def _parents() -> list[tuple[int, int]]:
    """Return (pid, parent) of every process."""
    if not sys.platform.startswith("linux"):
        rows = subprocess.run(["ps", "-Ao", "pid=,ppid="], capture_output=True, text=True, check=False).stdout
        return [(int(row.split()[0]), int(row.split()[1])) for row in rows.splitlines()]
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
                found.append((int(folder.name), int(parent)))
    return found
