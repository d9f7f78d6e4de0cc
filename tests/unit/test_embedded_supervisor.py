"""The supervisor over tiny real processes: back-off, order of stopping, force, and what it says."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from tests.patience import patient
from trainwright.embedded import leftovers, process
from trainwright.embedded.errors import EmbeddedError
from trainwright.embedded.home import Home
from trainwright.embedded.programs import FIRST, LAST, SECOND, Program
from trainwright.embedded.roster import Roster
from trainwright.embedded.supervisor import (
    BACK_OFF_SECONDS,
    FOLLOW_SECONDS,
    START_AGAIN_SECONDS,
    Signals,
    Supervisor,
)

POLITE = (
    "import signal, sys, time\n"
    "signal.signal(signal.SIGTERM, lambda *_: (print('stopped', time.monotonic(), flush=True), sys.exit(0)))\n"
    "print('started', time.monotonic(), flush=True)\n"
    "time.sleep(60)\n"
)
STUBBORN = (
    "import signal, time\n"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "print('started', flush=True)\n"
    "time.sleep(60)\n"
)
FAILING = "import sys\nprint('about to fail', flush=True)\nsys.exit('no luck today')\n"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path / "home")
    made.create()
    return made


@pytest.fixture
def signals() -> Iterator[Signals]:
    with Signals() as caught:
        yield caught


def program(home: Home, name: str, code: str, stage: int = SECOND, stop_seconds: float = 5.0) -> Program:
    return Program(name, (sys.executable, "-c", code), home.path, dict(os.environ), stage, stop_seconds)


def started(home: Home, *names: str) -> bool:
    return all("started" in process.tail(home.log(name)) for name in names)


def later(seconds: float, number: signal.Signals = signal.SIGTERM) -> None:
    threading.Timer(seconds, os.kill, (os.getpid(), number)).start()


def once(happened: Callable[[], bool]) -> None:
    """Have this process stopped when it has happened; the test says what is wrong when it never does."""

    def wait() -> None:
        deadline = patient(15)
        while not happened() and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def starts(home: Home, name: str) -> int:
    return process.tail(home.log(name), 50).count("started")


def moment(home: Home, name: str, what: str) -> float:
    line = next(line for line in home.log(name).read_text().splitlines() if line.startswith(what))
    return float(line.split()[1])


def test_agents_stop_before_services_and_kafka_last(home: Home, signals: Signals) -> None:
    table = [
        program(home, "kafka", POLITE, LAST),
        program(home, "control-plane", POLITE, SECOND),
        program(home, "worker-1", POLITE, FIRST),
    ]
    names = [one.name for one in table]
    supervisor = Supervisor(home, table, ready=lambda: started(home, *names), signals=signals)
    supervisor.run(on_ready=lambda: os.kill(os.getpid(), signal.SIGTERM))
    stops = [moment(home, name, "stopped") for name in ("worker-1", "control-plane", "kafka")]
    assert stops == sorted(stops)
    assert (supervisor.was_ready, supervisor.killed) == (True, False)
    assert home.state()["ready"] is False
    assert leftovers.recorded(home) == []


def test_one_that_does_not_listen_is_killed_at_its_deadline(home: Home, signals: Signals) -> None:
    table = [program(home, "worker-1", STUBBORN, FIRST, stop_seconds=0.5)]
    supervisor = Supervisor(home, table, ready=lambda: started(home, "worker-1"), signals=signals)
    ready: list[float] = []

    def interrupt() -> None:
        ready.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    supervisor.run(on_ready=interrupt)
    assert 0.5 <= time.monotonic() - ready[0] < 30
    assert supervisor.killed


def test_a_second_ctrl_c_does_not_wait(home: Home, signals: Signals) -> None:
    table = [program(home, "worker-1", STUBBORN, FIRST, stop_seconds=30)]
    supervisor = Supervisor(home, table, ready=lambda: started(home, "worker-1"), signals=signals)
    began = time.monotonic()

    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        later(0.4, signal.SIGINT)

    supervisor.run(on_ready=twice)
    assert time.monotonic() - began < 30
    assert leftovers.recorded(home) == []


def test_one_that_dies_again_and_again_is_started_with_growing_pauses(home: Home, signals: Signals) -> None:
    code = "import time; print('started', time.monotonic(), flush=True); raise SystemExit(3)"
    said: list[str] = []
    table = [program(home, "flaky", code), program(home, "steady", POLITE)]
    supervisor = Supervisor(home, table, ready=lambda: True, signals=signals, say=said.append)
    once(lambda: starts(home, "flaky") == 4 and started(home, "steady"))
    supervisor.run()
    lines = home.log("flaky").read_text().splitlines()  # the last one may have been stopped while it began
    at = [float(line.split()[1]) for line in lines if line.startswith("started")]
    pauses = [second - first for first, second in pairwise(at)]
    assert len(pauses) >= 3
    assert all(pause > BACK_OFF_SECONDS[0] * 2**number for number, pause in enumerate(pauses))
    assert "flaky ended (exit code 3); it is started again" in said
    assert home.log("steady").read_text().count("started") == 1


def test_one_that_left_in_order_is_started_again_at_once_and_no_death_is_counted(
    home: Home, signals: Signals
) -> None:
    code = f"import time\nprint('started', flush=True)\ntime.sleep({START_AGAIN_SECONDS + 0.2})"
    said: list[str] = []
    supervisor = Supervisor(
        home, [program(home, "worker-1", code)], ready=lambda: True, signals=signals, say=said.append
    )
    once(lambda: starts(home, "worker-1") == 3)
    supervisor.run()
    assert starts(home, "worker-1") >= 3
    assert supervisor.children[0].deaths <= 1  # the one that was stopped at the end
    assert said[0] == "worker-1 ended (exit code 0); it is started again"


def test_one_that_cannot_start_ends_the_start_with_its_log_and_stops_the_rest(
    home: Home, signals: Signals
) -> None:
    table = [program(home, "steady", POLITE), program(home, "broken", FAILING)]
    supervisor = Supervisor(home, table, ready=lambda: False, signals=signals)
    with pytest.raises(EmbeddedError, match="broken ended 5 times while starting") as raised:
        supervisor.run()
    assert "no luck today" in str(raised.value)
    assert "stopped" in home.log("steady").read_text()
    assert leftovers.recorded(home) == []


def test_a_program_that_does_not_exist_is_told_like_one_that_dies(home: Home, signals: Signals) -> None:
    table = [Program("nowhere", ("/no/such/program",), home.path, {})]
    with pytest.raises(EmbeddedError, match="nowhere ended 5 times"):
        Supervisor(home, table, ready=lambda: False, signals=signals).run()


def test_a_program_whose_folder_is_gone_is_told_like_one_that_dies(home: Home, signals: Signals) -> None:
    lost = replace(program(home, "lost", POLITE), folder=home.path / "gone")
    with pytest.raises(EmbeddedError, match=r"lost ended 5 times while starting \(No such file or directory\)"):
        Supervisor(home, [lost], ready=lambda: False, signals=signals).run()


def test_a_roster_that_is_damaged_for_a_while_changes_nothing(home: Home, signals: Signals) -> None:
    said: list[str] = []
    roster = Roster(home)
    roster.write({"worker-1"})

    def damage() -> None:
        (home.path / "roster.json").write_text("[")
        later(4 * FOLLOW_SECONDS)

    Supervisor(
        home,
        [program(home, "steady", POLITE)],
        ready=lambda: started(home, "steady", "worker-1"),
        signals=signals,
        say=said.append,
        wanted=lambda: [program(home, name, POLITE) for name in roster.read()],
    ).run(on_ready=damage)
    assert len([line for line in said if "roster.json is damaged" in line]) == 1
    assert process.tail(home.log("worker-1")).count("started") == 1


def test_never_ready_is_given_up_in_bounded_time(home: Home, signals: Signals) -> None:
    table = [program(home, "steady", POLITE)]
    supervisor = Supervisor(home, table, ready=lambda: False, signals=signals, start_seconds=0.5)
    with pytest.raises(EmbeddedError, match="was not ready after"):
        supervisor.run()
    assert leftovers.recorded(home) == []


def test_a_full_disk_while_running_is_said_and_ends_nothing(home: Home, signals: Signals) -> None:
    said: list[str] = []
    table = [program(home, "steady", POLITE)]
    supervisor = Supervisor(home, table, ready=lambda: started(home, "steady"), signals=signals, say=said.append)

    def fill() -> None:
        (home.path / f".state.json.{os.getpid()}").symlink_to("/dev/full")
        os.kill(supervisor.children[0].process.pid, signal.SIGKILL)  # type: ignore[union-attr]
        once(lambda: starts(home, "steady") == 2)

    if Path("/dev/full").exists():
        supervisor.run(on_ready=fill)
        assert any("disk is full" in line for line in said)
        assert home.log("steady").read_text().count("started") == 2


def test_what_an_earlier_supervisor_left_is_ended_and_a_reused_pid_is_not(home: Home) -> None:
    left = process.spawn([sys.executable, "-c", STUBBORN], log=home.log("left"))
    other = process.spawn([sys.executable, "-c", STUBBORN], log=home.log("other"))
    home.write_state(
        {
            "processes": [
                {"name": "left", "pid": left.pid, "started": process.started(left.pid)},
                {"name": "reused", "pid": other.pid, "started": "another moment"},
            ]
        }
    )
    try:
        assert [name for name, _, _ in leftovers.recorded(home)] == ["left"]
        assert leftovers.clear(home) == 1
        assert left.wait(5) == -signal.SIGKILL
        assert other.poll() is None
    finally:
        process.stop(left, 0)
        process.stop(other, 0)


def test_runs_whose_agent_had_to_be_killed_are_ended_with_all_below_them(home: Home) -> None:
    attempt = home.worker(1) / "attempts" / "task-0123456789ab.1"
    attempt.mkdir(parents=True)
    code = (
        "import signal, subprocess, sys\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print('started', child.pid, flush=True)\n"
        "child.wait()\n"
    )
    shim = process.spawn([sys.executable, "-c", code], log=home.log("shim"))
    try:
        while not started(home, "shim"):
            time.sleep(0.02)
        child = int(home.log("shim").read_text().split()[1])
        (attempt / "shim.json").write_text(
            f'{{"shim_pid": {shim.pid}, "shim_start": "{process.started(shim.pid)}"}}'
        )
        assert leftovers.end_runs(home, 0.3) == 1
        assert shim.wait(5) == 0  # it left by itself when the run below it had been killed
        assert process.started(child) is None
    finally:
        process.stop(shim, 0)


def test_a_log_that_grew_too_large_is_moved_aside_at_the_start(tmp_path: Path) -> None:
    log = tmp_path / "kafka.log"
    process.rotate(log)
    log.write_bytes(b"x" * 100)
    process.rotate(log, limit=100)
    assert log.exists()
    process.rotate(log, limit=99)
    assert not log.exists()
    assert (tmp_path / "kafka.log.1").stat().st_size == 100


class Wishes:
    """Which programs are wanted, step by step: the next comes when what the present one waits for is there."""

    def __init__(self, *steps: tuple[list[Program] | EmbeddedError, Callable[[], bool]]) -> None:
        self._steps = list(steps)

    def __call__(self) -> list[Program]:
        wanted, is_there = self._steps[0]
        if is_there():
            if len(self._steps) == 1:
                os.kill(os.getpid(), signal.SIGTERM)
                return []
            self._steps.pop(0)
            wanted = self._steps[0][0]
        if isinstance(wanted, EmbeddedError):
            raise wanted
        return wanted


def test_workers_come_and_go_as_they_are_wanted(home: Home, signals: Signals) -> None:
    one = program(home, "worker-1", POLITE, FIRST)
    two = program(home, "worker-2", STUBBORN, FIRST, stop_seconds=0.3)
    said: list[str] = []

    def running() -> set[str]:
        return {entry["name"] for entry in home.state().get("processes", []) if entry["pid"]}

    def count(name: str, what: str) -> int:
        return home.log(name).read_text().count(what) if home.log(name).exists() else 0

    asked: list[int] = []

    def has_asked_thrice() -> bool:
        asked.append(1)
        return len(asked) == 3

    wishes = Wishes(
        ([one, two], lambda: started(home, "worker-1", "worker-2")),
        (EmbeddedError("the list is damaged"), has_asked_thrice),
        ([two], lambda: count("worker-1", "stopped") == 1 and running() == {"kafka", "worker-2"}),
        ([one], lambda: count("worker-1", "started") == 2 and running() == {"kafka", "worker-1"}),
    )
    table = [program(home, "kafka", POLITE, LAST)]
    supervisor = Supervisor(
        home, table, ready=lambda: started(home, "kafka"), signals=signals, say=said.append, wanted=wishes
    )
    supervisor.run()
    assert said == ["the list is damaged"], "said once, and nobody that was let go is said to have died"
    assert count("worker-2", "started") == 1, "what was unknown ended nobody"
    assert count("worker-1", "stopped") == 2
    assert leftovers.recorded(home) == []
