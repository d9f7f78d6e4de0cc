"""What surrounds a run: its folder, its environment, its files, and what is left when it is gone."""

import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from services.trainer_worker import inventory, spawn
from services.trainer_worker.domain import Attempt
from trainwright.contracts.resource import Gpu, ResourceUsage, Slots
from trainwright.contracts.task import TaskConfig
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
    with pytest.raises(PermissionError, match="outside of this worker's data_roots"):
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
