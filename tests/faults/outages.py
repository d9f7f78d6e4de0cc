"""Take things away while a run goes on, and give them back; then ask whether the run noticed, or a point is gone.

Broker, services, agents and the whole platform are stopped, killed and started again. After it has caught up, a
run that could not help it must be on its first attempt, in the same process, with each of its points shown once.
One whose worker alone was away for longer than the lease must go on elsewhere, and what the first attempt still
said must be kept and not be shown.

    python -m tests.faults.outages --scenario all --minutes 10
"""

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tests.faults.place import Place, Watched, a_place, until, watch
from tests.faults.processes import kill
from tests.planted import NO_FENCE, planted
from trainwright.embedded.process import started

NO_HEALTH = {"SCHEDULER_PROBE_LATE": "1e9", "SCHEDULER_PAUSE": "1e9"}
"""Leases without the rule that the scheduler itself must have been able to hear."""

FAMILY = """
import os, subprocess, sys, time
import trainwright

run = trainwright.init()
sleep = "import time; time.sleep(1000)"
subprocess.Popen([sys.executable, "-c", sleep], start_new_session=True)
subprocess.Popen(["nohup", sys.executable, "-c", sleep], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execv(sys.executable, [sys.executable, "-c", sleep])
    os._exit(0)
run.log(0, {"value": 0})
time.sleep(1000)
"""


HEARTBEAT = 2.5
"""Seconds in which every worker that lives is heard."""
PLACE_FREE = 10.0
"""Seconds from a pause until the next run has logged its first 20 points, at most."""


@dataclass(frozen=True, slots=True)
class Times:
    """How long things are taken away, in seconds."""

    broker: float
    pause: float = 90.0
    lease: float = 8.0
    orphan: float = 30.0

    @property
    def settled(self) -> float:
        """Return how long to look for late consequences once all is back."""
        return self.lease * 1.5


@dataclass(slots=True)
class Row:
    """What was found in one scenario."""

    scenario: str
    seconds: float = 0.0
    restarts: int = 0
    lost: int = 0
    doubled: int = 0
    hidden: int = 0
    """Points that a replaced attempt said and nobody sees."""
    wrong: list[str] = field(default_factory=list)

    def line(self) -> str:
        """Return it as a line of the table."""
        figures = f"{self.seconds:>8.0f} {self.restarts:>9} {self.lost:>12} {self.doubled:>8} {self.hidden:>7,}"
        return f"{self.scenario:<16} {figures}  {'ok' if not self.wrong else '; '.join(self.wrong)}"


HEAD = f"{'scenario':<16} {'seconds':>8} {'restarts':>9} {'points lost':>12} {'doubled':>8} {'hidden':>7}  ok"
Scenario = Callable[[Place, Times, Row], None]


def broker_stop(place: Place, times: Times, row: Row) -> None:
    """Kafka ends and stays away."""

    def outage(_: Watched) -> None:
        with place.unattended():
            os.kill(place.pid("kafka"), signal.SIGTERM)
            time.sleep(times.broker)

    _unharmed(place, times, row, outage)


def broker_pause(place: Place, times: Times, row: Row) -> None:
    """Kafka hangs."""
    _unharmed(place, times, row, lambda _: _pause(place, times.pause, "kafka"))


def service_pause(place: Place, times: Times, row: Row) -> None:
    """The control plane hangs, or each of its services, one after the other."""
    services = [name for name in place.names() if name not in ("kafka", "kafka-archive", "worker-1", "worker-2")]

    def outage(_: Watched) -> None:
        for name in services:
            _pause(place, times.pause, name)

    _unharmed(place, times, row, outage)


def control_restart(place: Place, times: Times, row: Row) -> None:
    """The control plane is killed: once it comes back at once, once it stays away for a while."""
    services = [name for name in place.names() if name not in ("kafka", "kafka-archive", "worker-1", "worker-2")]

    def outage(_: Watched) -> None:
        for name in services:
            _kill_and_wait(place, name)
            time.sleep(times.lease / 2)
        with place.unattended():
            for name in services:
                os.kill(place.pid(name), signal.SIGKILL)
            time.sleep(2 * times.lease)

    _unharmed(place, times, row, outage)


def agent_kill(place: Place, times: Times, row: Row) -> None:
    """The agent is killed and started again within its lease."""
    _unharmed(place, times, row, lambda run: _kill_and_wait(place, run.worker))


def agent_restart(place: Place, times: Times, row: Row) -> None:
    """The agent says that it restarts, and is back later than its lease."""

    def outage(run: Watched) -> None:
        agent = place.pid(run.worker)
        mark = started(agent)
        with place.unattended():
            os.kill(agent, signal.SIGHUP)
            until(lambda: started(agent) != mark, 10, "the agent to leave")
            time.sleep(times.lease * 1.5)
        until(lambda: place.is_back(run.worker, agent), 20, "the agent to be back")

    _unharmed(place, times, row, outage)


def platform_kill(place: Place, times: Times, row: Row) -> None:
    """All but the runs is killed, and is up again within the time that runs wait for their agent."""

    def outage(_: Watched) -> None:
        kill(place.home, lambda process: not process.is_run)
        time.sleep(times.orphan / 2)
        place.up.up()

    _unharmed(place, times, row, outage)


def agent_pause(place: Place, times: Times, row: Row) -> None:
    """The agent alone hangs for longer than its lease; its run goes on."""
    _replaced(place, times, row, lambda run: [place.pid(run.worker)])


def zombie(place: Place, times: Times, row: Row) -> None:
    """A worker hangs with all that runs on it for longer than its lease, and wakes up."""

    def whole(run: Watched) -> list[int]:
        return [place.pid(run.worker), int(run.shim()["shim_pid"]), run.child]

    _replaced(place, times, row, whole)


def zombie_writes(place: Place, times: Times, row: Row) -> None:
    """An agent alone hangs while its run goes on writing, fast: what it then says late must not be visible."""
    run = watch(place, row.scenario, every=500, pause=0.001)
    with place.stopped(place.pid(run.worker)):
        until(lambda: run.show()["attempt"] == 2, times.lease + 20, "another attempt")
        time.sleep(max(times.pause - times.lease, 0))
    until(lambda: not run.is_unharmed(), 30, "the first run to be ended")
    until(lambda: (run.first / "exit.json").exists(), 30, "its ending")
    until(lambda: run.place.is_quiet(lambda: run.counted(1)), 60, "all that the first attempt still said")
    said = run.counted(1)
    run.finish()
    attempts = run.show()["attempts"]
    went_on = int(attempts[1]["resume_step"])
    row.hidden = said - went_on - 1
    shown = run.points("attempt")
    if late := late_and_visible(shown, went_on):
        row.wrong.append(f"{len(late)} points of the attempt that was replaced are visible: {late[:3]} …")
    if len(attempts) != 2 or not any(attempt == 2 for _, attempt in shown):
        row.wrong.append(f"{len(attempts)} attempts, and {len(shown)} points: the second one is not seen")


def late_and_visible(shown: Sequence[Sequence[float]], went_on: int) -> list[float]:
    """Return the steps at which the first attempt is seen behind the one that the second went on from.

    The value of each point is the number of the attempt that logged it.
    """
    return [step for step, attempt in shown if attempt == 1 and step > went_on]


def agent_gone(place: Place, times: Times, row: Row) -> None:
    """An agent is away for longer than runs wait: nothing of them survives, however far it went away."""
    run = watch(place, "agent-gone")
    family = place.folder / "family.py"
    family.write_text(FAMILY)
    before = len(place.runs())
    with place.api() as api:
        config = {"recipe": "script", "parameters": {"path": str(family)}, "resource_requirements": {"cpu": 0.25}}
        answer = api.post("/tasks", json={"config": config, "start": True})
        answer.raise_for_status()
    until(lambda: len(place.runs()) >= before + 5, 30, "the family")
    with place.unattended():
        # Its own worker last: were that lost first, the run would be given to the other one, which is as dead.
        for name in sorted(("worker-1", "worker-2"), key=lambda name: name == run.worker):
            os.kill(place.pid(name), signal.SIGKILL)
            begun = time.monotonic()
            time.sleep(HEARTBEAT)
        while place.runs() and time.monotonic() < begun + times.orphan + 25:
            time.sleep(0.1)
        row.wrong += [f"survives: {process.command}" for process in place.runs()]
        if time.monotonic() - begun < times.orphan - 1:
            row.wrong.append(f"ended after {time.monotonic() - begun:.0f} s already")
    with place.api() as api:
        api.post(f"/tasks/{answer.json()['task_id']}/cancel")
    _check(run, row, attempts=2)


def full_cluster(place: Place, times: Times, row: Row) -> None:
    """A paused run gives its place to the next one, waits when it is resumed, and goes on where it stood."""
    whole: dict[str, Any] = {"resource_requirements": {"cpu": place.cpus()}}
    first = watch(place, "full-first", every=20, **whole)
    second = watch(place, "full-second", every=20, **whole)
    third = watch(place, "full-third", every=20, queued=True, **whole)
    _ask(place, first, "pause")
    begun = time.monotonic()
    until(lambda: first.show()["status"] == "paused", 20, "the run to be paused")
    third.begin()
    if (seconds := time.monotonic() - begun) > PLACE_FREE:
        row.wrong.append(f"the next run began {seconds:.0f} s after the pause")
    _ask(place, first, "resume")
    until(lambda: "free place" in first.show()["reason"], 20, "the resumed run to wait")
    _pause(place, times.lease, "kafka")
    third.finish()
    until(lambda: first.show()["attempt"] == 2, 60, "the resumed run to have its place")
    second.finish()
    _check(first, row, attempts=2)
    for other in (second, third):
        if len(other.show()["attempts"]) != 1:
            row.wrong.append("another run did not finish in one attempt")


def _ask(place: Place, run: Watched, wish: str) -> None:
    with place.api() as api:
        api.post(f"/tasks/{run.task_id}/{wish}").raise_for_status()


def _unharmed(place: Place, times: Times, row: Row, outage: Callable[[Watched], None]) -> None:
    """Let an outage pass over a run that must not notice it."""
    run = watch(place, row.scenario)
    outage(run)
    reached = run.logged()
    until(lambda: run.logged() > reached + 20, 90, "points to come again")
    time.sleep(times.settled)
    if not run.is_unharmed():
        row.wrong.append("its process is gone")
    _check(run, row, attempts=1)


def _replaced(place: Place, times: Times, row: Row, which: Callable[[Watched], list[int]]) -> None:
    """Let a run's worker be away for longer than its lease, and come back."""
    run = watch(place, row.scenario, every=20)
    before = run.counted(1)
    with place.stopped(*which(run)):
        until(lambda: run.show()["attempt"] == 2, times.lease + 20, "another attempt")
        time.sleep(max(times.pause - times.lease, 0))
    until(lambda: not run.is_unharmed(), 30, "the first run to be ended")
    until(lambda: (run.first / "exit.json").exists(), 30, "its ending")
    until(lambda: run.counted(1) > before, 30, "what the first attempt still said to be kept")
    until(lambda: run.logged() > before + 40, 60, "the second attempt to go on")
    _check(run, row, attempts=2)


def _check(run: Watched, row: Row, *, attempts: int) -> None:
    """Let a run finish, and note what is wrong with what is shown of it."""
    steps = run.finish()
    wanted = [[step, step] for step in range(steps)]
    for _ in range(100):  # metrics travel on a topic of their own
        points = run.points()
        if points == wanted:
            break
        time.sleep(0.1)
    task = run.show()
    shown = [int(step) for step, _ in points]
    row.restarts = len(task["attempts"]) - 1
    row.lost, row.doubled = len(set(range(steps)) - set(shown)), len(shown) - len(set(shown))
    if (task["status"], len(task["attempts"])) != ("completed", attempts):
        row.wrong.append(f"{task['status']} after {len(task['attempts'])} attempts: {task['reason']}")
    if points != wanted:
        row.wrong.append(f"{len(points)} points where it took {steps} steps")
    until(lambda: not run.place.runs(), 30, "no process to be left of it")


def _pause(place: Place, seconds: float, name: str) -> None:
    with place.stopped(place.pid(name)):
        time.sleep(seconds)


def _kill_and_wait(place: Place, name: str) -> None:
    pid = place.pid(name)
    os.kill(pid, signal.SIGKILL)
    until(lambda: place.is_back(name, pid), 30, f"{name} to be started again")


SCENARIOS: Mapping[str, Scenario] = MappingProxyType(
    {
        "broker-stop": broker_stop,
        "broker-pause": broker_pause,
        "service-pause": service_pause,
        "control-restart": control_restart,
        "agent-kill": agent_kill,
        "agent-restart": agent_restart,
        "agent-pause": agent_pause,
        "agent-gone": agent_gone,
        "platform-kill": platform_kill,
        "zombie": zombie,
        "zombie-writes": zombie_writes,
        "full-cluster": full_cluster,
    }
)


def play(name: str, place: Place, times: Times) -> Row:
    """Play one scenario; what could not be waited for is wrong as well."""
    row, begun = Row(name), time.monotonic()
    try:
        SCENARIOS[name](place, times, row)
    except AssertionError as error:
        row.wrong.append(str(error))
    row.seconds = time.monotonic() - begun
    return row


def _plant(bug: str | None, folder: Path) -> Mapping[str, str]:
    if bug == "fence":
        return planted(NO_FENCE, folder / "bug")
    return NO_HEALTH if bug == "leases" else {}


def main() -> None:
    """Run scenarios from the command line, each on a platform of its own; exit 1 if anything was wrong."""
    parser = argparse.ArgumentParser(description="Take things away while a run goes on.")
    parser.add_argument("--scenario", choices=["all", *SCENARIOS], default="all")
    parser.add_argument("--minutes", type=float, default=10, help="how long the broker is away")
    parser.add_argument("--seconds", type=float, default=90, help="how long other things hang")
    parser.add_argument("--separate", action="store_true", help="every service a process of its own")
    parser.add_argument(
        "--plant",
        choices=["leases", "fence"],
        help="leases without the rule of health, or points without a fence: must fail",
    )
    options = parser.parse_args()
    times = Times(broker=60 * options.minutes, pause=options.seconds)
    rows = []
    for name in SCENARIOS if options.scenario == "all" else [options.scenario]:
        with tempfile.TemporaryDirectory(prefix="trainwright-outage-") as scratch:
            env = _plant(options.plant, Path(scratch))
            with a_place(Path(scratch), env, separate=options.separate) as place:
                rows.append(play(name, place, times))
        sys.stderr.write(rows[-1].line() + "\n")
    sys.stdout.write("\n".join([HEAD, *(row.line() for row in rows)]) + "\n")
    sys.exit(1 if any(row.wrong for row in rows) else 0)


if __name__ == "__main__":
    main()
