"""Tasks that fail by their own cause while everything else is broken too: each has to end with its own class.

The scripts are some of those that `classify_failures` lets fail alone: those that need nothing but a worker. Not
here: what is done to the platform meanwhile (`campaign.py`).
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tests.faults.failures import table
from trainwright.contracts.failure import FailureClass

SCRIPTS = (
    "user_name",
    "data_missing_file",
    "diverged_other_name",
    "memory_error",
    "environment_import",
    "hung_join",
    "timed_out",
    "node_io_error",
    "unknown_segfault",
    "user_exit_code",
    "data_json_line",
    "diverged_floating_point",
    "memory_masked_by_its_handler",
    "environment_program",
    "user_thread",
    "user_syntax",
)
DONE_TO_THEM = frozenset({None, FailureClass.WORKER_LOST, FailureClass.PREEMPTED, FailureClass.UNKNOWN})
"""How an attempt may end that was itself well: killed with its worker (or stopped in order, without a class), or
its process alone."""
_WATCHED: Mapping[str, Any] = MappingProxyType({"watch": {"hang_after": 2.0}})


def expected(script: str) -> FailureClass:
    """Return the class that a script has to end with."""
    found = table.expected(script)
    assert found is not None, f"{script} is healthy"
    return found


def document(script: str, folder: Path) -> dict[str, Any]:
    """Return the document of a task that fails; it is not tried again after what it did itself."""
    path = folder / script / "train.py"
    if not path.exists():
        path.parent.mkdir(parents=True)
        shutil.copy(table.SCRIPTS / f"{script}.script", path)
    kind = expected(script)
    more: dict[str, Any] = {"timeout": table.needs(script).timeout}
    return {
        "recipe": "script",
        "name": script,
        "parameters": {"path": str(path)},
        "resource_requirements": {"cpu": 0.25},
        "retry": {kind: {"max": 0}},
        **(_WATCHED if kind is FailureClass.HUNG else {}),
        **{name: value for name, value in more.items() if value is not None},
    }


def wrong_ending(task: Mapping[str, Any], own: FailureClass | None) -> str | None:
    """Return what is wrong with how a task ended: with its own class, or completed when it has none.

    A healthy one may have failed by what was done to it, oftener than it may be tried again.
    """
    *earlier, last = [attempt["failure_class"] for attempt in task["attempts"]] or [None]
    found = f"{task['task_id']} ({task['name']}) is {task['status']} after {[*earlier, last]}: {task['reason']}"
    if not set(earlier) <= DONE_TO_THEM:
        return f"{found}; an earlier attempt has a class of which it was not the cause"
    if own is None:
        killed = task["status"] == "failed" and last is not None and last in DONE_TO_THEM
        return None if task["status"] == "completed" or killed else found
    return None if (task["status"], last) == ("failed", own) else f"{found}; its own class is {own}"
