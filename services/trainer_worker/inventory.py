"""What this machine has and uses: CPU cores, memory, GPUs, and what each run's processes take.

Linux reads /proc and control groups; elsewhere totals come from the system and use is unknown. GPUs come from
`nvidia-smi`, when there is one.
"""

import asyncio
import contextlib
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from trainwright.contracts.resource import Gpu, ResourceUsage

MIB = 1024 * 1024
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_GPU_TIMEOUT = 10.0
TABLE_SECONDS = 5.0
"""How long the machine's process table is believed: what a run starts meanwhile counts a little later."""


def cpu_cores() -> float:
    """Return the cores that this process may use, by affinity and control group."""
    try:
        cores = float(len(os.sched_getaffinity(0)))
    except AttributeError:
        cores = float(os.cpu_count() or 1)
    quota = _first_line(Path("/sys/fs/cgroup/cpu.max")).split()
    if len(quota) == 2 and quota[0].isdigit():
        cores = min(cores, int(quota[0]) / int(quota[1]))
    return max(cores, 0.1)


def memory_bytes() -> int:
    """Return the memory that this process may use, by machine and control group."""
    total = os.sysconf("SC_PHYS_PAGES") * _PAGE
    limit = _first_line(Path("/sys/fs/cgroup/memory.max"))
    return min(total, int(limit)) if limit.isdigit() else total


async def gpus() -> list[Gpu]:
    """Return the NVIDIA GPUs of this machine; none when `nvidia-smi` is absent or fails."""
    rows = await _nvidia_smi("index,name,memory.total")
    return [Gpu(index=int(index), model=name, memory=_bytes(total) or 0) for index, name, total in rows]


async def gpu_usage() -> dict[int, ResourceUsage]:
    """Return utilisation and memory in use by GPU index."""
    rows = await _nvidia_smi("index,utilization.gpu,memory.used")
    return {
        int(index): ResourceUsage(gpu=_number(percent), gpu_memory=_bytes(used)) for index, percent, used in rows
    }


async def _nvidia_smi(fields: str) -> list[list[str]]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    command = [program, f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        out, _ = await asyncio.wait_for(process.communicate(), _GPU_TIMEOUT)
    except TimeoutError:
        process.kill()
        await process.wait()
        return []
    rows = [[cell.strip() for cell in line.split(",")] for line in out.decode("utf-8", "replace").splitlines()]
    return [row for row in rows if len(row) == 3 and row[0].isdigit()] if process.returncode == 0 else []


def _number(text: str) -> float | None:
    """Return a number; None for what a GPU cannot tell: `[N/A]`, as where it shares the machine's memory."""
    try:
        return float(text)
    except ValueError:
        return None


def _bytes(mebibytes: str) -> int | None:
    number = _number(mebibytes)
    return None if number is None else int(number) * MIB


def _first_line(path: Path) -> str:
    try:
        return path.read_text().partition("\n")[0].strip()
    except OSError:
        return ""


@dataclass(frozen=True, slots=True)
class Process:
    """One row of the process table; ``reaped_seconds`` is the CPU time of its children that have ended."""

    parent: int
    state: str
    cpu_seconds: float
    reaped_seconds: float
    memory: int


def process_table() -> dict[int, Process]:
    """Return the machine's processes by pid; empty where there is no /proc."""
    names = os.listdir("/proc") if os.path.isdir("/proc/self") else []
    found = {int(name): process_of(int(name)) for name in names if name.isdigit()}
    return {pid: process for pid, process in found.items() if process is not None}


def process_of(pid: int) -> Process | None:
    """Return one process; None when it is gone, or where there is no /proc."""
    if (cells := _stat(pid)) is None:
        return None
    own, reaped = int(cells[11]) + int(cells[12]), int(cells[13]) + int(cells[14])
    return Process(int(cells[1]), cells[0].decode(), own / _TICKS, reaped / _TICKS, int(cells[21]) * _PAGE)


def _stat(pid: int) -> list[bytes] | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()
    except OSError:
        return None


def age_seconds(pid: int) -> float | None:
    """Return for how long a process has lived by a clock that nobody sets; None where that is not known."""
    if (cells := _stat(pid)) is None:
        return None
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - int(cells[19]) / _TICKS)


@dataclass(frozen=True, slots=True)
class Tree:
    """What the processes of a run have used in all, and whether one of them is held (SIGSTOP, a debugger)."""

    cpu_seconds: float
    is_held: bool


class Trees:
    """Looks at process trees often and cheaply: the table only now and then, then only the tree's own rows."""

    def __init__(self) -> None:
        self._children: dict[int, list[int]] = {}
        self._read_at = float("-inf")

    def look(self, root: int, now: float) -> Tree | None:
        """Return the tree below `root`; None when it is gone."""
        if not os.path.isdir("/proc/self"):
            return _tree_without_proc(root)
        if process_of(root) is None:
            return None
        if now - self._read_at >= TABLE_SECONDS or not self._children.get(root):
            self._read_at = now
            table = process_table()
            self._children = {pid: [] for pid in table}
            for pid, row in table.items():
                self._children.setdefault(row.parent, []).append(pid)
        found = [process for pid in _tree(root, self._children) if (process := process_of(pid)) is not None]
        cpu = sum(process.cpu_seconds + process.reaped_seconds for process in found)
        return Tree(cpu, any(process.state in ("T", "t") for process in found))


def _tree_without_proc(root: int) -> Tree | None:
    try:
        parent = psutil.Process(root)
        family = [parent, *parent.children(recursive=True)]
    except psutil.Error:
        return None
    cpu, is_held = 0.0, False
    for process in family:
        with contextlib.suppress(psutil.Error):
            cpu += sum(process.cpu_times()[:2])
            is_held = is_held or process.status() == psutil.STATUS_STOPPED
    return Tree(cpu, is_held)


class UsageMeter:
    """Measures the CPU and memory of process trees between two looks."""

    def __init__(self) -> None:
        self._last: dict[int, float] = {}
        self._last_time = 0.0

    def measure(self, roots: Mapping[str, int], now: float) -> dict[str, ResourceUsage]:
        """Return the use of the tree below each root pid since the last call; roots without a process are
        left out.
        """
        table = process_table()
        children: dict[int, list[int]] = {}
        for pid, process in table.items():
            children.setdefault(process.parent, []).append(pid)
        elapsed = now - self._last_time
        found = {}
        for key, root in roots.items():
            tree = _tree(root, children) if root in table else []
            if not tree:
                continue
            spent = sum(table[pid].cpu_seconds - self._last[pid] for pid in tree if pid in self._last)
            cpu = 100 * max(0.0, spent) / elapsed if self._last and elapsed > 0 else None
            found[key] = ResourceUsage(cpu=cpu, memory=sum(table[pid].memory for pid in tree))
        self._last = {pid: process.cpu_seconds for pid, process in table.items()}
        self._last_time = now
        return found


def _tree(root: int, children: Mapping[int, list[int]]) -> list[int]:
    found, queue = [], [root]
    while queue:
        pid = queue.pop()
        found.append(pid)
        queue += children.get(pid, [])
    return found


def total_usage(parts: Mapping[str, ResourceUsage], gpu: Mapping[int, ResourceUsage]) -> ResourceUsage:
    """Return the sum of trees, and the mean of GPUs."""
    rates = [usage.gpu for usage in gpu.values() if usage.gpu is not None]
    cpu = [usage.cpu for usage in parts.values() if usage.cpu is not None]
    memory = [usage.memory for usage in parts.values() if usage.memory is not None]
    gpu_memory = [usage.gpu_memory for usage in gpu.values() if usage.gpu_memory is not None]
    return ResourceUsage(
        gpu=sum(rates) / len(rates) if rates else None,
        gpu_memory=sum(gpu_memory) if gpu_memory else None,
        cpu=sum(cpu) if cpu else None,
        memory=sum(memory) if memory else None,
    )
