"""What surrounds a run: its folder, its environment, its files, and what is left when it is gone."""

import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from services.trainer_worker import inventory, shim, spawn
from services.trainer_worker.domain import Attempt, Stop, StopCause
from services.trainer_worker.shim import OomKills
from trainwright.contracts.resource import Gpu, ResourceUsage, Slots
from trainwright.contracts.task_config import TaskConfig
from trainwright.training import layout

LINUX = sys.platform.startswith("linux")


def attempt_of(**config: object) -> Attempt:
    values = {"recipe": "script", "parameters": {"path": "train.py"}, **config}
    return Attempt(
        task_id="task-1",
        attempt=1,
        incarnation="now",
        name="x",
        config=TaskConfig.model_validate(values),
        slots=Slots(gpus=[1, 3], cpu=2.5),
        received_at=datetime.now(UTC),
    )


def test_a_run_inherits_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = ("AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "DB_PASSWORD", "TRAINWRIGHT_INTERNAL_TOKEN", "WANDB_API_KEY")
    for name in secrets:
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    found = spawn.child_environment(tmp_path, attempt_of())
    assert [name for name, value in found.items() if value == "secret"] == []
    assert found["TOKENIZERS_PARALLELISM"] == "false"
    assert found["CUDA_VISIBLE_DEVICES"] == "1,3"
    assert found["OMP_NUM_THREADS"] == "2"
    assert found["TRAINWRIGHT_RUN_ID"] == "task-1/1"
    assert found["PYTHONFAULTHANDLER"] == "1"


def test_data_is_found_among_the_tasks_files_or_where_it_lies(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "sales.csv").touch()
    elsewhere = tmp_path / "elsewhere.csv"
    elsewhere.touch()
    work = tmp_path / "work"
    found = spawn.located_data({"path": "sales.csv", "time": "Date"}, work)
    assert found == {"path": str(work / "sales.csv"), "time": "Date"}
    assert spawn.located_data({"path": str(elsewhere)}, work) == {"path": str(elsewhere)}
    with pytest.raises(FileNotFoundError, match=r"data path nothing\.csv does not exist on this worker"):
        spawn.located_data({"path": "nothing.csv"}, work)
    spawn.check_data_root({"path": str(elsewhere)}, work, [])
    spawn.check_data_root({"path": "sales.csv"}, work, [tmp_path / "data"])
    with pytest.raises(ValueError, match="outside of this worker's data_roots"):
        spawn.check_data_root({"path": str(elsewhere)}, work, [tmp_path / "data"])


def test_a_specification_names_what_runs(tmp_path: Path) -> None:
    work = spawn.prepare_folder(tmp_path)
    (work / "train.py").touch()
    attempt = attempt_of(parameters={"path": "train.py", "args": ["-v"], "rate": 0.1})
    spawn.write_spec(tmp_path, attempt, tmp_path / "agent.lock", 30)
    spec = layout.read_json(tmp_path / layout.SPEC)
    assert spec is not None
    assert spec["argv"] == [sys.executable, "-u", "train.py", "-v"]
    assert spec["parameters"] == {"rate": 0.1}
    assert (spec["resume"], spec["repairs"], spawn.resume_step(tmp_path)) == (None, [], 0)
    repaired = attempt.model_copy(update={"overrides": {"rate": 0.05, "batch": 4}})
    spawn.write_spec(tmp_path, repaired, tmp_path / "agent.lock", 30, resume_step=12)
    spec = layout.read_json(tmp_path / layout.SPEC)
    assert spec is not None
    assert spec["argv"][2:] == ["train.py", "-v"]
    assert spec["parameters"] == {"rate": 0.05, "batch": 4}
    assert spec["resume"] == {"step": 12, "folder": layout.RESUME}
    assert spawn.resume_step(tmp_path) == 12


def test_a_request_is_passed_on_once(tmp_path: Path) -> None:
    hung = Stop(kind=StopCause.HUNG, grace_seconds=0)
    assert spawn.write_control(tmp_path, hung)
    assert not spawn.write_control(tmp_path, hung)
    assert spawn.write_control(tmp_path, Stop(kind=StopCause.PAUSE, grace_seconds=5))
    control = layout.read_json(tmp_path / layout.CONTROL)
    assert control == {
        "revision": 1,
        "stop": {"kind": "pause", "deadline": 5, "term": 10, "signal": "SIGTERM"},
    }


@pytest.mark.skipif(not LINUX, reason="reads /proc")
def test_leftovers_are_found_by_their_run_and_nobody_else_is_touched(tmp_path: Path) -> None:
    def sleeper(directory: Path) -> "subprocess.Popen[bytes]":
        env = {**os.environ, layout.RUN_DIR_VARIABLE: str(directory)}
        return subprocess.Popen(["sleep", "60"], env=env, start_new_session=True)

    ours, other = sleeper(tmp_path / "task-1.1"), sleeper(tmp_path / "task-1.11")
    try:
        until = time.monotonic() + 5
        while spawn.kill_leftovers(tmp_path / "task-1.1") == 0:
            assert time.monotonic() < until
        assert ours.wait(5) == -9
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


@pytest.mark.skipif(not LINUX, reason="reads /proc")
def test_leftovers_with_an_empty_environment_are_found_by_their_folder_and_a_persons_shell_is_not_touched(
    tmp_path: Path,
) -> None:
    work = tmp_path / "task-1.1" / layout.WORK
    work.mkdir(parents=True)
    master, terminal = os.openpty()
    takes_it = f"exec sleep 60 <> {os.ttyname(terminal)}"  # a session's leader that opens a terminal has it
    scrubbed = subprocess.Popen(["sleep", "60"], cwd=work, env={}, start_new_session=True)
    person = subprocess.Popen(["sh", "-c", takes_it], cwd=work, env={}, start_new_session=True)
    try:
        until = time.monotonic() + 30
        while Path(f"/proc/{person.pid}/comm").read_text() != "sleep\n":
            assert time.monotonic() < until
        assert spawn.kill_leftovers(tmp_path / "task-1.1") >= 1
        assert scrubbed.wait(30) == -9
        assert person.poll() is None
    finally:
        for process in (scrubbed, person):
            process.kill()
            process.wait()
        os.close(master)
        os.close(terminal)


def test_no_shim_has_ever_been_where_there_is_no_lock(tmp_path: Path) -> None:
    assert not spawn.has_shim(tmp_path)
    (tmp_path / layout.SHIM_LOCK).touch()
    assert not spawn.has_shim(tmp_path)


@pytest.mark.skipif(not LINUX, reason="reads /proc")
def test_use_is_measured_by_tree() -> None:
    burn = "import os, time\nos.fork()\nend = time.time() + 30\nwhile time.time() < end: pass"
    process = subprocess.Popen([sys.executable, "-c", burn], start_new_session=True)
    try:
        meter = inventory.UsageMeter()
        time.sleep(0.3)
        assert meter.measure({"a": process.pid}, time.monotonic())["a"].cpu is None
        time.sleep(0.5)
        usage = meter.measure({"a": process.pid, "gone": 2**22 - 1}, time.monotonic())
        assert set(usage) == {"a"}
        assert usage["a"].cpu is not None
        assert usage["a"].cpu > 5
        assert usage["a"].memory is not None
        assert usage["a"].memory > 2**20
    finally:
        os.killpg(process.pid, 9)
        process.wait()


@pytest.mark.skipif(not LINUX, reason="reads /proc")
def test_a_tree_is_looked_at_often_and_one_that_is_held_is_seen() -> None:
    burn = "import os, time\nos.fork()\nend = time.time() + 30\nwhile time.time() < end: pass"
    process = subprocess.Popen([sys.executable, "-c", burn], start_new_session=True)
    try:
        trees = inventory.Trees()
        age = inventory.age_seconds(process.pid)
        assert age is not None
        assert 0 <= age < 20
        first = trees.look(process.pid, 0.0)
        assert first is not None
        until = time.monotonic() + 10
        while (later := trees.look(process.pid, 1.0)) is not None and later.cpu_seconds < first.cpu_seconds + 0.1:
            assert time.monotonic() < until
        assert later is not None
        assert not later.is_held
        os.killpg(process.pid, signal.SIGSTOP)
        while not ((held := trees.look(process.pid, 2.0)) and held.is_held):
            assert time.monotonic() < until
    finally:
        os.killpg(process.pid, 9)
        process.wait()
    assert trees.look(process.pid, 3.0) is None
    assert inventory.age_seconds(process.pid) is None


def test_totals_are_sums_and_unknown_stays_unknown() -> None:
    parts = {"a": ResourceUsage(cpu=50, memory=10), "b": ResourceUsage(cpu=None, memory=5)}
    gpu = {0: ResourceUsage(gpu=20, gpu_memory=100), 1: ResourceUsage(gpu=40, gpu_memory=50)}
    assert inventory.total_usage(parts, gpu) == ResourceUsage(cpu=50, memory=15, gpu=30, gpu_memory=150)
    assert inventory.total_usage({}, {}) == ResourceUsage()


async def test_gpus_are_read_from_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho '0, NVIDIA H200, 143771'\necho '1, NVIDIA H200, 143771'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    memory = 143771 * 1024 * 1024
    assert await inventory.gpus() == [Gpu(index=n, model="NVIDIA H200", memory=memory) for n in (0, 1)]
    program.write_text("#!/bin/sh\necho 'Failed to initialize NVML'\nexit 9\n")
    assert await inventory.gpus() == []


def test_a_machine_has_cores_and_memory() -> None:
    assert 0 < inventory.cpu_cores() <= (os.cpu_count() or 1)
    assert inventory.memory_bytes() > 2**28


def test_only_what_the_kernel_killed_lately_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill counts for every run of the machine: one of a minute ago explains no ending of now."""
    now, kills = time.monotonic(), 5

    def counted() -> int:
        return kills

    monkeypatch.setattr(OomKills, "_count", lambda self: counted())
    seen = OomKills()
    assert seen.recent() == 0
    kills += 1
    assert seen.recent() == 1
    for second in range(60):
        seen.look(now + second, os.getpid())
    assert seen.recent() == 0
    kills += 2
    assert seen.recent() == 2


@pytest.mark.parametrize("state", ["R", "D", "Z"])
def test_a_process_on_its_way_out_leads_to_no_other_memory_group(
    state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel shows it in the root group before it is a zombie: what it was killed for stands in its own."""
    own, root = tmp_path / "own", tmp_path / "root"
    own.write_text("oom_kill 0\n")
    root.write_text("oom_kill 0\n")
    shown, flags = own, "0"
    monkeypatch.setattr(shim, "oom_counter", lambda pid: str(shown))
    monkeypatch.setattr(shim, "_stat", lambda pid: [state, "1", "1", "1", "0", "-1", flags])
    kills = OomKills()
    own.write_text("oom_kill 1\n")
    shown, flags = root, str(0x400000 | 4)
    kills.look(time.monotonic(), 1)
    assert kills.recent() == 1
    flags = str(0x400000)
    kills.look(time.monotonic(), 1)
    assert kills.recent() == 0, "it lives, and has moved"
