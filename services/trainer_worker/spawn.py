"""Start a run's shim, see whether it lives, and end what a dead one left behind. Processes and files only."""

import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from services.trainer_worker import gang
from services.trainer_worker.domain import Attempt, Stop, command_line, run_parameters
from trainwright.contracts.parameters import ParameterChange
from trainwright.training import layout

SHIM = Path(__file__).with_name("shim.py")
AGENT_LOG = "agent.log"
_SECRETS = re.compile(
    r"^(AWS|TRAINWRIGHT)_|^OTEL_.*_HEADERS$|(^|_)(TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|APIKEY|KEY)S?(_|$)"
)


def prepare_folder(directory: Path) -> Path:
    """Make an attempt's folder; return its work folder."""
    (directory / layout.BUNDLE).mkdir(parents=True, exist_ok=True)
    work = directory / layout.WORK
    work.mkdir(exist_ok=True)
    return work


def write_spec(
    directory: Path, attempt: Attempt, agent_lock: Path, orphan_seconds: float, resume_step: int | None = None
) -> None:
    """Write what the shim and the child read; a run that goes on from a checkpoint finds it in `resume/`.

    Raises:
        ValueError: The task does not say what to run.
        FileNotFoundError: The script or the data is not there.
    """
    config = attempt.config
    argv = command_line(config.recipe, attempt.parameters, sys.executable)
    work = directory / layout.WORK
    if config.recipe == "script" and not (work / argv[2]).exists():
        raise ValueError(f"the script {argv[2]} is not among the task's files")
    layout.write_json(
        directory / layout.SPEC,
        {
            "argv": argv,
            "cwd": layout.WORK,
            "agent_lock": str(agent_lock),
            "orphan_seconds": orphan_seconds,
            "task_id": attempt.task_id,
            "attempt": attempt.attempt,
            "name": attempt.name,
            "recipe": config.recipe,
            "rank": attempt.rank,
            "members": len(attempt.members) or 1,
            "parameters": run_parameters(config.recipe, attempt.parameters),
            "changes": [handed_over(one) for one in attempt.parameter_changes if one.error is None],
            "repairable": {role.value: name for role, name in config.repairable.items()},
            "repairs": [repair.model_dump(mode="json") for repair in attempt.repairs],
            "resume": (None if resume_step is None else {"step": resume_step, "folder": layout.RESUME}),
            "data": located_data(config.data, work),
        },
    )


def located_data(data: Mapping[str, Any] | None, work: Path) -> dict[str, Any] | None:
    """Return the data description with its path made absolute.

    Raises:
        FileNotFoundError: There is no such file or folder here.
    """
    if data is None or not isinstance(data.get("path"), str):
        return dict(data) if data is not None else None
    path = work / data["path"]
    if not path.exists():
        raise FileNotFoundError(f"data path {data['path']} does not exist on this worker")
    return {**data, "path": str(path)}


def check_data_root(data: Mapping[str, Any] | None, work: Path, roots: Sequence[Path]) -> None:
    """Refuse an absolute data path outside of the folders that the worker may read; any is fine without
    such folders.

    Raises:
        ValueError: The path lies elsewhere.
    """
    if not roots or data is None or not isinstance(data.get("path"), str):
        return
    path = (work / data["path"]).resolve()
    if not any(path.is_relative_to(root.resolve()) for root in (work, *roots)):
        raise ValueError(f"data path {data['path']} is outside of this worker's data_roots")


def child_environment(directory: Path, attempt: Attempt) -> dict[str, str]:
    """Return the child's environment: this process's without secrets, with its own run and its own GPUs
    only.
    """
    kept = {name: value for name, value in os.environ.items() if not _SECRETS.search(name.upper())}
    kept[layout.RUN_DIR_VARIABLE] = str(directory)
    kept[layout.RUN_ID_VARIABLE] = f"{attempt.task_id}/{attempt.attempt}"
    kept["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, attempt.slots.gpus))
    kept.setdefault("OMP_NUM_THREADS", str(max(1, int(attempt.slots.cpu))))
    kept.update(gang.environment(attempt))
    if attempt.traceparent is not None:
        kept["TRACEPARENT"] = attempt.traceparent
    kept["PYTHONFAULTHANDLER"] = "1"  # what is aborted, or crashes, leaves the stacks of its threads
    return kept


def start_shim(directory: Path, attempt: Attempt) -> "subprocess.Popen[bytes]":
    """Start the shim; its lock is taken here and inherited, so that there is no moment without it."""
    lock = os.open(directory / layout.SHIM_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with open(directory / "shim.log", "ab") as log:
            return subprocess.Popen(
                [sys.executable, "-I", "-S", str(SHIM), str(directory), str(lock)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=child_environment(directory, attempt),
                start_new_session=True,
                pass_fds=(lock,),
            )
    finally:
        os.close(lock)


def has_shim(directory: Path) -> bool:
    """Return whether the attempt's shim lives: it holds its lock until it ends."""
    try:
        lock = os.open(directory / layout.SHIM_LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def resume_step(directory: Path) -> int:
    """Return the step that a run was started from; 0 when it began at the beginning."""
    resume = (layout.read_json(directory / layout.SPEC) or {}).get("resume")
    return int(resume["step"]) if isinstance(resume, dict) else 0


def write_control(directory: Path, stop: Stop | None, changes: Sequence[ParameterChange] = ()) -> bool:
    """Ask the run to stop, or hand it changed parameters: the child's context and the shim watch this file.

    Return False when just this was asked before: a shim would count the time from anew.
    """
    wish = stop and {
        "kind": stop.kind.value,
        "deadline": stop.grace_seconds,
        "term": stop.term_seconds,
        "signal": stop.signal,
    }
    control: dict[str, Any] = {"revision": stop.revision if stop is not None else 0, "stop": wish}
    if changes:
        control["parameters"] = [handed_over(one) for one in changes if one.error is None]
    if layout.read_json(directory / layout.CONTROL) == control:
        return False
    layout.write_json(directory / layout.CONTROL, control)
    return True


def handed_over(change: ParameterChange) -> dict[str, Any]:
    """Return what a run is told of changed parameters; `step` is the first one that they hold for, when known."""
    return {
        "revision": change.revision,
        "step": change.step,
        "changes": {name: {"old": value.old, "new": value.new} for name, value in change.changes.items()},
    }


def note(directory: Path, text: str) -> None:
    """Append a line that people find among the run's log records."""
    with open(directory / AGENT_LOG, "a", encoding="utf-8") as file:
        file.write(text.rstrip("\n") + "\n")


def read_tail(path: Path, size: int = 64 * 1024) -> str:
    """Return the end of a text file; empty when there is none."""
    try:
        with open(path, "rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - size))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""


def kill_leftovers(directory: Path) -> int:
    """SIGKILL every process that carries this run's folder in its environment, or works in it (Linux); return
    how many.

    Elsewhere the shim's own child is killed, if it is the one that was started.
    """
    wanted, folder = f"{layout.RUN_DIR_VARIABLE}={directory}".encode(), os.path.realpath(directory)
    killed = 0
    for _ in range(5):
        found = [pid for pid in _processes() if wanted in _environment(pid) or _works_in(pid, folder)]
        for pid in found:
            killed += _kill(pid)
        if not found:
            break
    if not os.path.isdir("/proc/self"):
        shim = layout.read_json(directory / layout.SHIM) or {}
        child = shim.get("child_pid")
        if isinstance(child, int) and _start_of(child) == shim.get("child_start"):
            killed += _kill(child)
    return killed


def remove_folder(directory: Path) -> None:
    """Delete an attempt's folder."""
    shutil.rmtree(directory, ignore_errors=True)


def _processes() -> list[int]:
    if not os.path.isdir("/proc/self"):
        return []
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()]


def _environment(pid: int) -> list[bytes]:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return file.read().split(b"\0")
    except OSError:
        return []


def _works_in(pid: int, folder: str) -> bool:
    """Return whether a process without a terminal, so no person's shell, has its working folder there: some are
    started with an empty environment.
    """
    try:
        working = os.readlink(f"/proc/{pid}/cwd").removesuffix(" (deleted)")
        if working != folder and not working.startswith(f"{folder}/"):
            return False
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[4] == b"0"
    except OSError:
        return False


def _start_of(pid: int) -> str | None:
    done = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def _kill(pid: int) -> int:
    try:
        os.kill(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return 0
    return 1


def moment(file: Mapping[str, Any], name: str) -> datetime | None:
    """Return a time that a shim has written; None if it has not."""
    try:
        return datetime.fromisoformat(str(file.get(name)))
    except ValueError:
        return None
