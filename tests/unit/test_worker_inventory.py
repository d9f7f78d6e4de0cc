"""What a machine has and uses where it does not say so as usual: no affinity, no /proc, GPUs that tell less."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from services.trainer_worker import inventory, spawn
from tests.integration.worker_harness import is_alive
from tests.patience import patient
from trainwright.contracts.resource import Gpu, ResourceUsage


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Have a program of this name that does what a test says."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def does(script: str) -> None:
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)

    return does


async def test_what_a_gpu_cannot_tell_is_unknown(nvidia_smi: Callable[[str], None]) -> None:
    """Those that share the machine's memory have none of their own; a worker starts with them all the same."""
    nvidia_smi("echo '0, NVIDIA GB10, [N/A]'")
    assert await inventory.gpus() == [Gpu(index=0, model="NVIDIA GB10", memory=0)]
    nvidia_smi("echo '0, 37, [N/A]'\necho '1, [N/A], 1000'\necho 'no row of this table'")
    usage = await inventory.gpu_usage()
    assert usage == {0: ResourceUsage(gpu=37), 1: ResourceUsage(gpu_memory=1000 * inventory.MIB)}
    assert inventory.total_usage({}, usage) == ResourceUsage(gpu=37, gpu_memory=1000 * inventory.MIB)
    assert inventory.total_usage({}, {0: usage[0]}) == ResourceUsage(gpu=37)


async def test_a_driver_that_hangs_is_a_machine_without_gpus_and_leaves_no_process(
    nvidia_smi: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inventory, "_GPU_TIMEOUT", 1.0)
    nvidia_smi(f"echo $$ > {tmp_path}/pid; exec sleep 600")
    assert await inventory.gpus() == []
    assert not is_alive(int((tmp_path / "pid").read_text()))


def test_without_affinity_the_machine_has_the_cores_that_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as macos:
        macos.delattr(os, "sched_getaffinity", raising=False)
        assert 0 < inventory.cpu_cores() <= (os.cpu_count() or 1)
        macos.setattr(os, "cpu_count", lambda: None)
        assert 0 < inventory.cpu_cores() <= 1


@pytest.fixture
def burning() -> Iterator["subprocess.Popen[bytes]"]:
    """Give a process whose child burns CPU."""
    process = subprocess.Popen(["sh", "-c", "(while :; do :; done) & wait"], start_new_session=True)
    yield process
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_without_proc_a_tree_is_looked_at_through_the_system(burning: "subprocess.Popen[bytes]") -> None:
    def look() -> inventory.Tree:
        found = inventory._tree_without_proc(burning.pid)
        assert found is not None
        return found

    until, first = patient(20), look()
    while (later := look()).cpu_seconds < first.cpu_seconds + 0.1:
        assert time.monotonic() < until
    assert not later.is_held
    os.killpg(burning.pid, signal.SIGSTOP)
    while not look().is_held:
        assert time.monotonic() < until
    assert inventory._tree_without_proc(2**22 - 1) is None


def test_what_is_gone_already_is_not_counted_as_ended() -> None:
    process = subprocess.Popen(["sleep", "600"])
    assert spawn._kill(process.pid) == 1
    assert process.wait(60) == -signal.SIGKILL
    assert spawn._kill(process.pid) == 0
