"""What an earlier supervisor left behind: wait for it, then end it, so that nobody meets a stranger in the home.

Called while the home's lock is held, so whoever started these processes is dead. Runs (shims) are not leftovers
at the next `up`: an agent adopts them. `down`, and agents that had to be killed, end them here.
"""

import fcntl
import json
import signal
import time
from collections.abc import Callable
from pathlib import Path

from trainwright.embedded import process
from trainwright.embedded.errors import HomeError
from trainwright.embedded.home import Home

# The kernel ends them within milliseconds on Linux; the poll elsewhere takes 0.2 s.
PATIENCE_SECONDS = 3.0
KILL_SECONDS = 10.0
Running = tuple[str, int, str]


def recorded(home: Home) -> list[Running]:
    """Return (name, pid, mark) of the processes that the last supervisor wrote down and that still live."""
    found = []
    listed = home.state().get("processes")
    for entry in listed if isinstance(listed, list) else []:
        pid, mark = entry.get("pid"), entry.get("started")
        if isinstance(pid, int) and mark and process.started(pid) == mark:
            found.append((str(entry.get("name")), pid, str(mark)))
    return found


def clear(home: Home, interrupted: Callable[[], bool] = lambda: False) -> int:
    """Wait until nothing of an earlier run is left, killing what stays; return how many had to be killed.

    Raises:
        HomeError: A process does not end, or another Kafka uses this home's data.
    """
    _wait(lambda: not recorded(home), PATIENCE_SECONDS, interrupted)
    left = recorded(home)
    for _, pid, _ in left:
        process.kill_group(pid)
    _wait(lambda: not recorded(home), KILL_SECONDS, interrupted)
    for name, pid, _ in recorded(home):
        raise HomeError(f"A process of the former run does not end: {name}, pid {pid}; end it and try again")
    if not _wait(lambda: not _kafka_data_in_use(home), KILL_SECONDS, interrupted):
        raise HomeError(f"Another Kafka still uses the data in {home.kafka}; end it and try again")
    return len(left)


def runs(home: Home) -> list[Running]:
    """Return the shims of this home's workers that still live."""
    found = []
    for path in home.path.glob("workers/*/attempts/*/shim.json"):
        try:
            shim = json.loads(path.read_text())
            pid, mark = int(shim["shim_pid"]), str(shim["shim_start"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if process.started(pid) == mark:
            found.append((path.parent.name, pid, mark))
    return found


def end_runs(home: Home, seconds: float) -> int:
    """End what agents left running: ask each shim, after ``seconds`` kill what is below it; return how many."""
    found = runs(home)
    for _, pid, _ in found:
        process.kill(pid, signal.SIGTERM)
    if found and not _wait(lambda: not runs(home), seconds):
        for _, pid, _ in runs(home):
            for child in process.below(pid):
                process.kill(child)
        if not _wait(lambda: not runs(home), PATIENCE_SECONDS):  # a shim writes how its run ended, then leaves
            for _, pid, _ in runs(home):
                process.kill(pid)
    return len(found)


def _kafka_data_in_use(home: Home) -> bool:
    """Return whether a Kafka holds its lock on the data: Java locks by fcntl, and so does this probe."""
    path = Path(home.kafka / "log" / ".lock")
    try:
        with open(path, "r+b") as lock:
            try:
                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return True
    except OSError:
        pass
    return False


def _wait(done: Callable[[], bool], seconds: float, interrupted: Callable[[], bool] = lambda: False) -> bool:
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline or interrupted():
            return False
        time.sleep(0.05)
    return True
