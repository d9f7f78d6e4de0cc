"""Names of the files in a run directory, and the one way in which small state files are written.

The directory is the whole interface between agent, shim and child: `spec.json` (what runs), `work/` (unpacked
files), `spool/` (metrics), `stdout.log`, `stderr.log`, `control.json` (agent → child and shim),
`stopping.json` (child: the stop was seen), `habits.json` (child: what it has ever asked for), `parameters.json`
(child: from which step changed parameters hold), `result.json` (a recipe's own summary), `shim.json`, `exit.json`
(shim), `bundle/` (what the run leaves), `checkpoints/<name>/` (what the child saved; whole once it has a
`manifest.json`), `resume/` (the checkpoint to go on from, verified).
Not here: anything that interprets them.
"""

import json
import os
from pathlib import Path
from typing import Any

SPEC = "spec.json"
WORK = "work"
SPOOL = "spool"
STDOUT = "stdout.log"
STDERR = "stderr.log"
CONTROL = "control.json"
STOPPING = "stopping.json"
RESULT = "result.json"
SHIM = "shim.json"
SHIM_LOCK = "shim.lock"
EXIT = "exit.json"
BUNDLE = "bundle"
CHECKPOINTS = "checkpoints"
RESUME = "resume"
HABITS = "habits.json"
PARAMETERS = "parameters.json"
MANIFEST = "manifest.json"

RUN_DIR_VARIABLE = "TRAINWRIGHT_RUN_DIR"
RUN_ID_VARIABLE = "TRAINWRIGHT_RUN_ID"


def write_json(path: Path, value: Any) -> None:
    """Replace `path` by `value` as JSON so that a reader, or a crash, sees the old file or the new one,
    whole.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(value, file, ensure_ascii=False)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def is_temporary(path: Path) -> bool:
    """Return whether `path` is a half-written file of `write_json`."""
    return path.name.startswith(".") and path.name.endswith(".tmp")


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the JSON object in `path`, or None when the file is absent or not a JSON object."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None
