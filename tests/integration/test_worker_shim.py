"""The shim with real processes: it starts one child, ends the whole tree, and always says how it ended."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from trainwright.training import layout

SHIM = Path(__file__).parents[2] / "services" / "trainer_worker" / "shim.py"
LINUX = sys.platform.startswith("linux")


class Attempt:
    """An attempt directory with a shim, and an agent that is nothing but its lock."""

    def __init__(self, root: Path) -> None:
        self.directory = root / "attempt"
        (self.directory / "work").mkdir(parents=True)
        self.lock_path = root / "agent.lock"
        self.lock = os.open(self.lock_path, os.O_RDWR | os.O_CREAT)
        fcntl.flock(self.lock, fcntl.LOCK_EX)
        self.shim: subprocess.Popen[bytes] | None = None

    def start(self, code: str, **spec: Any) -> None:
        (self.directory / "work" / "run.py").write_text(code)
        argv = [sys.executable, "-u", "run.py"]
        layout.write_json(self.directory / "spec.json", {"argv": argv, "agent_lock": str(self.lock_path), **spec})
        self.shim = subprocess.Popen([sys.executable, "-I", "-S", str(SHIM), str(self.directory)])

    def stop(self, deadline: float, **wish: Any) -> None:
        control = {"revision": 1, "stop": {"kind": "cancel", "deadline": deadline, **wish}}
        layout.write_json(self.directory / "control.json", control)

    def ending(self, timeout: float = 20) -> dict[str, Any]:
        assert self.shim is not None
        assert self.shim.wait(timeout) == 0
        return dict(json.loads((self.directory / "exit.json").read_text()))

    def number(self, name: str) -> int:
        """Wait for a number that the run writes to a file."""
        path = self.directory / "work" / name
        wait_until(lambda: path.exists() and path.read_text().strip().isdigit(), f"{name} was not written")
        return int(path.read_text())

    def close(self) -> None:
        os.close(self.lock)
        if self.shim is not None:
            self.shim.kill()
            self.shim.wait()


@pytest.fixture
def attempt(tmp_path: Path) -> Iterator[Attempt]:
    made = Attempt(tmp_path)
    yield made
    made.close()


def wait_until(true: Callable[[], bool], message: str, seconds: float = 15) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, message
        time.sleep(0.005)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    if LINUX:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except FileNotFoundError:
            return False
    return True


FAMILY = """
import os, signal, sys, time
def note(name):
    with open(name + ".new", "w") as file: file.write(str(os.getpid()))
    os.rename(name + ".new", name)
note("child")
if os.fork() == 0:
    note("grandchild"); time.sleep(600)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        note("daemon"); time.sleep(600)
    os._exit(0)
os.wait()
"""


def test_an_ending_by_itself_is_written_with_its_output(attempt: Attempt) -> None:
    attempt.start("import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)")
    ending = attempt.ending()
    assert (ending["exit_code"], ending["signal"], ending["reason"]) == (3, None, "exited")
    assert (attempt.directory / "stdout.log").read_text() == "out\n"
    assert (attempt.directory / "stderr.log").read_text() == "err\n"
    assert ending["max_rss"] > 1_000_000
    assert ending["started_at"] < ending["ended_at"]
    shim = json.loads((attempt.directory / "shim.json").read_text())
    assert shim["child_pid"] > 0
    assert shim["shim_start"]


def test_an_ending_that_cannot_be_written_is_written_when_it_can(attempt: Attempt) -> None:
    in_the_way = attempt.directory / "exit.json"
    in_the_way.mkdir()
    attempt.start("raise SystemExit(3)")
    tried = attempt.directory / "exit.json.tmp"
    wait_until(tried.exists, "the ending was not tried")
    first = tried.stat().st_mtime_ns
    wait_until(lambda: tried.stat().st_mtime_ns != first, "the ending was not tried again")
    in_the_way.rmdir()
    assert attempt.ending()["exit_code"] == 3


def test_a_crash_is_named_by_its_signal(attempt: Attempt) -> None:
    attempt.start("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    assert (attempt.ending()["exit_code"], attempt.ending()["signal"]) == (None, "SIGSEGV")


def test_what_cannot_be_started_is_an_ending_with_the_reason(attempt: Attempt) -> None:
    attempt.start("", argv=["/nowhere/python", "x"])
    ending = attempt.ending()
    assert ending["reason"] == "not_started"
    assert "cannot start /nowhere/python: [Errno 2] No such file or directory" in ending["error"]


@pytest.mark.skipif(not LINUX, reason="needs a subreaper")
def test_nothing_that_the_run_started_outlives_it(attempt: Attempt) -> None:
    attempt.start(FAMILY + "\nwhile not os.path.exists('daemon'): time.sleep(.01)")
    grandchild, daemon = attempt.number("grandchild"), attempt.number("daemon")
    assert attempt.ending()["exit_code"] == 0
    assert not alive(grandchild)
    assert not alive(daemon)


@pytest.mark.skipif(not LINUX, reason="needs a subreaper")
def test_told_to_stop_it_ends_the_whole_tree_at_the_deadline(attempt: Attempt) -> None:
    attempt.start(FAMILY + "\ntime.sleep(600)")
    family = [attempt.number(name) for name in ("child", "grandchild", "daemon")]
    attempt.stop(deadline=0)
    ending = attempt.ending()
    assert (ending["signal"], ending["reason"]) == ("SIGTERM", "exited")
    assert ending["stop"] == {"kind": "cancel", "deadline": 0}
    assert ending["signalled"] is True
    assert [pid for pid in family if alive(pid)] == []


def test_a_run_that_ends_by_itself_before_the_deadline_is_not_killed(attempt: Attempt) -> None:
    code = """
import json, os, time
while not os.path.exists("../control.json"): time.sleep(.01)
time.sleep(0.5); print("saved")
"""
    attempt.start(code)
    attempt.stop(deadline=30)
    ending = attempt.ending()
    assert (ending["exit_code"], ending["signalled"]) == (0, False)
    assert (attempt.directory / "stdout.log").read_text() == "saved\n"


def test_a_run_that_hangs_is_aborted_with_its_stacks_and_without_a_core_file(attempt: Attempt) -> None:
    code = """
import faulthandler, resource, time
faulthandler.enable()
print(resource.getrlimit(resource.RLIMIT_CORE)[0]); open("child", "w").write("1"); time.sleep(600)
"""
    attempt.start(code)
    attempt.number("child")
    attempt.stop(deadline=0, kind="hung", signal="SIGABRT")
    assert attempt.ending()["signal"] == "SIGABRT"
    assert (attempt.directory / "stdout.log").read_text() == "0\n"
    assert "Fatal Python error: Aborted" in (attempt.directory / "stderr.log").read_text()


def test_a_second_request_may_hurry_a_run_but_never_gives_it_time(attempt: Attempt) -> None:
    attempt.start("import time; open('child','w').write('1'); time.sleep(600)")
    attempt.number("child")
    began = time.monotonic()
    attempt.stop(deadline=1)
    time.sleep(0.3)
    attempt.stop(deadline=60, kind="pause")
    assert attempt.ending()["stop"]["kind"] == "pause"
    assert 0.9 < time.monotonic() - began < 30


def test_a_run_that_ignores_sigterm_is_killed_after_its_time(attempt: Attempt) -> None:
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); open('child','w').write('1')"
    attempt.start(code + "\nwhile True: time.sleep(1)", term_seconds=0.5)
    attempt.number("child")
    attempt.stop(deadline=0.2)
    started = time.monotonic()
    assert attempt.ending()["signal"] == "SIGKILL"
    assert 0.6 < time.monotonic() - started < 30


def test_a_run_whose_agent_is_gone_goes_on_for_its_time_and_then_ends(attempt: Attempt) -> None:
    attempt.start("import os, time; open('child','w').write(str(os.getpid())); time.sleep(600)", orphan_seconds=1)
    child = attempt.number("child")
    fcntl.flock(attempt.lock, fcntl.LOCK_UN)
    time.sleep(0.6)
    assert alive(child)
    assert attempt.ending()["reason"] == "no_agent"
    assert not alive(child)


def test_a_run_whose_agents_home_is_removed_ends_like_one_without_an_agent(attempt: Attempt) -> None:
    """Nobody could take that lock any more."""
    attempt.start("import os, time; open('child','w').write(str(os.getpid())); time.sleep(600)", orphan_seconds=1)
    child = attempt.number("child")
    attempt.lock_path.unlink()
    assert attempt.ending()["reason"] == "no_agent"
    assert not alive(child)


def test_an_agent_that_comes_back_in_time_finds_its_run_alive(attempt: Attempt) -> None:
    attempt.start("import os, time; open('child','w').write(str(os.getpid())); time.sleep(600)", orphan_seconds=1)
    child = attempt.number("child")
    for _ in range(3):
        fcntl.flock(attempt.lock, fcntl.LOCK_UN)
        time.sleep(0.6)
        fcntl.flock(attempt.lock, fcntl.LOCK_EX)
        time.sleep(0.3)
    assert alive(child)


def test_sigterm_to_the_shim_ends_the_run_in_order(attempt: Attempt) -> None:
    attempt.start("import os, time; open('child','w').write(str(os.getpid())); time.sleep(600)")
    child = attempt.number("child")
    assert attempt.shim is not None
    attempt.shim.terminate()
    assert attempt.ending()["reason"] == "shim_told_to_end"
    assert not alive(child)


@pytest.mark.skipif(not LINUX, reason="needs PR_SET_PDEATHSIG")
def test_a_child_does_not_outlive_a_killed_shim(attempt: Attempt) -> None:
    attempt.start("import os, time; open('child','w').write(str(os.getpid())); time.sleep(600)")
    child = attempt.number("child")
    assert attempt.shim is not None
    attempt.shim.send_signal(signal.SIGKILL)
    attempt.shim.wait()
    wait_until(lambda: not alive(child), "the child outlived its shim")
    assert not (attempt.directory / "exit.json").exists()


@pytest.mark.unmeasured
@pytest.mark.skipif(not LINUX, reason="reads /proc")
def test_the_shim_stays_small_and_idle(attempt: Attempt) -> None:
    attempt.start("import os, time; open('child','w').write(str(os.getpid())); time.sleep(600)")
    attempt.number("child")
    assert attempt.shim is not None
    time.sleep(1.0)
    rows = Path(f"/proc/{attempt.shim.pid}/smaps_rollup").read_text().splitlines()
    pss = next(int(row.split()[1]) for row in rows if row.startswith("Pss:"))
    assert pss < 12_000, f"{pss} KiB"
    ticks = Path(f"/proc/{attempt.shim.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    assert sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK") < 0.2
