"""The watcher of one run, over a real spool and a real process, with a clock of the test's own."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from services.trainer_worker import watching
from services.trainer_worker.domain import Attempt, Stop, StopCause
from services.trainer_worker.place import Workplace
from tests.runtime_kit import FastClock
from tests.worker_place import place_in
from trainwright.contracts.queue import Member
from trainwright.contracts.resource import ResourceUsage, Slots
from trainwright.contracts.task_config import TaskConfig, Watch
from trainwright.training import layout
from trainwright.training.spool import SpoolWriter, encode_record

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


@dataclass
class Desk:
    """A watcher whose run does nothing, and what the run is made to report."""

    watcher: watching.Watcher
    place: Workplace
    clock: FastClock
    spool: SpoolWriter
    pid: int

    def report(self, *steps: int, loss: float = 1.0) -> None:
        moment = self.clock.now().timestamp()
        records = ((step, moment + step, step, None, {"loss": loss}) for step in steps)
        self.spool.append(encode_record(record) for record in records)

    def pass_time(self, seconds: float, every: float = 0.5) -> Stop | None:
        """Look again and again; return the first request to end the run."""
        for _ in range(int(seconds / every)):
            self.clock.slept.append(every)
            if (stop := self.watcher.look(self.pid)) is not None:
                return stop
        return None


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    clock = FastClock()
    place = place_in(tmp_path, clock)
    attempt = Attempt(
        task_id="task-1", attempt=1, incarnation="now", name="x", slots=Slots(), received_at=clock.now(),
        config=TaskConfig(recipe="script", watch=Watch(hang_after=30)), started_at=clock.now(),
        timeout_seconds=150,
    )  # fmt: skip
    process = subprocess.Popen(["sh", "-c", "sleep 60 & wait"], start_new_session=True)
    watcher = watching.Watcher(attempt, tmp_path, place)
    try:
        yield Desk(watcher, place, clock, SpoolWriter(tmp_path / layout.SPOOL), process.pid)
    finally:
        watcher.close()
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_a_run_without_a_step_is_hung_but_a_watcher_that_slept_gives_it_its_time_again(desk: Desk) -> None:
    desk.watcher.look(desk.pid)
    desk.report(*range(1, 21))
    assert desk.pass_time(1) is None
    desk.clock.slept.append(60)
    assert desk.watcher.look(desk.pid) is None
    assert desk.pass_time(25) is None
    stop = desk.pass_time(10)
    assert stop is not None
    assert (stop.kind, stop.signal, stop.grace_seconds) == (StopCause.HUNG, "SIGABRT", 0)
    assert "after step 20" in stop.reason


def test_a_run_that_finds_no_room_for_its_reports_is_not_taken_for_hung_but_its_time_runs_out(desk: Desk) -> None:
    desk.watcher.look(desk.pid)
    desk.report(*range(1, 21))
    assert desk.pass_time(1) is None
    desk.watcher.least_free = 1 << 80
    assert desk.pass_time(80) is None
    desk.watcher.least_free = 0
    assert desk.pass_time(25) is None, "and it gets its time again once there is room"
    desk.watcher.least_free = 1 << 80
    stop = desk.pass_time(60)
    assert stop is not None
    assert stop.kind is StopCause.TIMED_OUT


def test_a_run_whose_folder_was_taken_away_is_hung_like_any_other(desk: Desk, tmp_path: Path) -> None:
    desk.watcher.look(desk.pid)
    desk.report(*range(1, 21))
    assert desk.pass_time(1) is None
    shutil.rmtree(tmp_path)
    stop = desk.pass_time(35)
    assert stop is not None
    assert stop.kind is StopCause.HUNG


def test_checkpoints_wait_while_the_loss_is_no_number(desk: Desk) -> None:
    assert desk.watcher.holds_back(1)  # nothing is known of the run yet
    desk.watcher.look(desk.pid)
    desk.report(*range(1, 21))
    assert not desk.watcher.holds_back(20)
    desk.report(21, 22, loss=float("nan"))
    assert not desk.watcher.holds_back(20)
    assert desk.watcher.holds_back(22)
    desk.report(23)
    assert not desk.watcher.holds_back(22)
    desk.report(*range(24, 40), loss=float("nan"))
    stop = desk.pass_time(1)
    assert stop is not None
    assert (stop.kind, stop.signal, stop.bad_step) == (StopCause.DIVERGED, "SIGTERM", 24)


def test_a_run_out_of_time_is_given_time_to_save(desk: Desk) -> None:
    desk.watcher.look(desk.pid)
    stop = desk.pass_time(151)
    assert stop is not None
    assert (stop.kind, stop.grace_seconds) == (StopCause.TIMED_OUT, watching.TIMEOUT_GRACE)


def test_a_clock_that_was_set_forward_ends_no_adopted_run(desk: Desk) -> None:
    desk.clock.now = lambda: datetime.now(UTC) + timedelta(days=365)  # type: ignore[method-assign]
    desk.watcher.look(desk.pid)
    assert desk.pass_time(145) is None
    stop = desk.pass_time(10)
    assert stop is not None
    assert stop.kind is StopCause.TIMED_OUT


def test_a_run_whose_gpus_do_nothing_may_save_and_what_a_gpu_does_not_tell_is_work(desk: Desk) -> None:
    attempt, gpus = desk.watcher._attempt, desk.place.gpus
    config = attempt.config.model_copy(update={"watch": Watch(idle_after=60, hang=False)})
    changes = {"config": config, "slots": Slots(gpus=[0, 1]), "timeout_seconds": None}
    desk.watcher._attempt = attempt.model_copy(update=changes)
    gpus.update({0: ResourceUsage(gpu=0.0), 2: ResourceUsage(gpu=0.0)})
    assert desk.pass_time(100) is None, "of GPU 1 nothing is known"
    gpus[1] = ResourceUsage(gpu=80.0)
    assert desk.pass_time(100) is None
    gpus[1] = ResourceUsage(gpu=0.0)
    assert desk.pass_time(50) is None
    stop = desk.pass_time(15)
    assert stop is not None
    assert (stop.kind, stop.grace_seconds, stop.signal) == (StopCause.IDLE, watching.TIMEOUT_GRACE, "SIGTERM")
    assert stop.reason.startswith("its GPUs have done nothing")


def test_what_a_worker_says_of_idle_runs_holds_for_those_that_do_not_say(desk: Desk) -> None:
    settings = desk.place.settings.model_copy(update={"idle_after": 50.0})
    desk.watcher._place = replace(desk.place, settings=settings)
    assert desk.pass_time(40) is None
    stop = desk.pass_time(20)
    assert stop is not None
    assert stop.kind is StopCause.IDLE


def test_members_of_a_gang_wait_for_each_other_and_are_not_idle(desk: Desk) -> None:
    members = [Member(rank=rank, worker_id=f"w{rank}", incarnation="x", slots=Slots()) for rank in (0, 1)]
    config = desk.watcher._attempt.config.model_copy(update={"watch": Watch(idle_after=5)})
    changes = {"members": members, "config": config}
    desk.watcher._attempt = desk.watcher._attempt.model_copy(update=changes)
    assert desk.pass_time(100) is None


def test_a_process_that_is_gone_is_not_judged(desk: Desk) -> None:
    desk.pid = 2**22 - 1
    assert desk.pass_time(200) is None
    assert desk.watcher.look(None) is None
