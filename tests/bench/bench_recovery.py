"""How long after a kill a run trains again, by what was killed and whether it is started again.

    python -m tests.bench.bench_recovery [--times 5] [--only KIND]

Every kill is SIGKILL. "Training again" is the moment at which the next attempt takes its first step, written by
the run itself; it saves a checkpoint every 20 steps of 50 ms and goes on from the last one.
"""

import argparse
import os
import signal
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import MappingProxyType

from tests.bench.figures import say
from tests.faults.place import Place, Watched, a_place, until, watch

Killed = Callable[[Place, Watched], list[int]]


def whole(place: Place, run: Watched) -> list[int]:
    """Return a worker with all that runs on it."""
    return [place.pid(run.worker), int(run.shim()["shim_pid"]), run.child]


def agent(place: Place, run: Watched) -> list[int]:
    """Return the agent alone."""
    return [place.pid(run.worker)]


def child(place: Place, run: Watched) -> list[int]:
    """Return the training process alone."""
    return [run.child]


KINDS: Mapping[str, tuple[Killed, bool, str]] = MappingProxyType(
    {
        "worker, not started again": (whole, False, "≤ 15 s"),
        "worker, started again by its supervisor": (whole, True, "≤ 15 s"),
        "agent, not started again": (agent, False, "≤ 15 s"),
        "child (unknown: a pause of 10 s)": (child, True, ""),
    }
)


def recovered(place: Place, name: str, which: Killed, again: bool) -> float:
    """Kill, and return the seconds until the next attempt's first step."""
    run = watch(place, name, every=20)
    before = run.firsts()
    with nullcontext() if again else place.unattended():
        killed = time.time()
        for pid in which(place, run):
            os.kill(pid, signal.SIGKILL)
        until(lambda: len(run.firsts()) > len(before), 60, "another attempt")
    seconds = run.firsts()[-1] - killed
    run.finish()
    _all_workers(place)
    return seconds


def unharmed(place: Place, name: str) -> float:
    """Kill an agent that is started again, and return the seconds until it leads its run again."""
    run = watch(place, name)
    killed = time.time()
    pid = place.pid(run.worker)
    os.kill(pid, signal.SIGKILL)
    until(lambda: place.is_back(run.worker, pid), 30, "the agent to be back")
    reached = run.logged()
    until(lambda: run.logged() > reached, 30, "new points")
    seconds = time.time() - killed
    assert run.is_unharmed(), "the run was harmed"
    run.finish()
    assert len(run.show()["attempts"]) == 1, "it was replaced: the agent was not back within its lease"
    return seconds


def _all_workers(place: Place) -> None:
    with place.api() as api:
        until(lambda: [w["state"] for w in api.get("/workers").json()["workers"]] == ["alive"] * 2, 30, "workers")


@contextmanager
def _bench() -> Iterator[Place]:
    with tempfile.TemporaryDirectory(prefix="trainwright-recovery-") as folder, a_place(Path(folder)) as place:
        yield place


def _spread(waits: list[float]) -> str:
    return f"median {statistics.median(waits):.1f} s, {min(waits):.1f} to {max(waits):.1f} s, n = {len(waits)}"


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    with _bench() as place:
        for letter, (kind, (which, again, goal)) in zip("abcd", KINDS.items(), strict=True):
            if options.only in kind:
                names = [f"{letter}{number}" for number in range(options.times)]
                waits = [recovered(place, name, which, again) for name in names]
                say(f"killed: {kind}", _spread(waits), goal)
        if options.only in "agent, started again":
            waits = [unharmed(place, f"agent{number}") for number in range(options.times)]
            say("killed: agent, started again (its run unharmed)", _spread(waits))


if __name__ == "__main__":
    main()
