"""Where a run lives that no worker started: a folder of its own, and how it goes on from an earlier one's.

Not here: what the run does there (context.py).
"""

import os
import re
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trainwright.training import layout

RUNS = "trainwright-runs"
RESUME_VARIABLE = "TRAINWRIGHT_RESUME"


def new_folder(parameters: Mapping[str, Any], name: str | None, resume: bool) -> tuple[Path, str]:
    """Make the folder of a new run, with its spec.json and what it goes on from; return it and the run's name."""
    main = getattr(sys.modules.get("__main__"), "__file__", None)
    label = name or (Path(main).stem if main else "run")
    safe = re.sub(r"[^\w.-]+", "-", label).strip("-.") or "run"
    base = Path(RUNS).absolute()
    source = _newest_checkpoint(base, safe) if resume else None
    stamp = time.strftime("%Y%m%d-%H%M%S")
    for attempt in range(1000):
        directory = base / (f"{safe}-{stamp}" if attempt == 0 else f"{safe}-{stamp}-{attempt}")
        try:
            directory.mkdir(parents=True)
        except FileExistsError:
            continue
        spec: dict[str, Any] = {"name": label, "parameters": _plain(parameters)}
        if source is not None:
            folder, step = source
            shutil.copytree(folder, directory / layout.RESUME, copy_function=_link)
            spec["resume"] = {"step": step, "folder": layout.RESUME}
        layout.write_json(directory / layout.SPEC, spec)
        return directory, label
    raise RuntimeError(f"cannot find a free folder under {base}")


def _newest_checkpoint(base: Path, safe: str) -> tuple[Path, int] | None:
    from trainwright.training.checkpoints import CheckpointError, verify

    for folder in _candidates(base, safe):
        try:
            step = verify(folder).step
        except CheckpointError as error:
            sys.stderr.write(f"trainwright: {error}; looking at the one before\n")
            continue
        sys.stderr.write(f"trainwright: going on after step {step}, from {folder}\n")
        return folder, step
    sys.stderr.write(f"trainwright: no checkpoint of {safe!r} under {base}; starting from the beginning\n")
    return None


def _candidates(base: Path, safe: str) -> Iterator[Path]:
    """Yield the checkpoints of that name, the newest run's first, and after them what it went on from itself."""
    from trainwright.training.checkpoints import whole_folders

    pattern = re.compile(re.escape(safe) + r"-(\d{8}-\d{6})(?:-(\d+))?")
    found = []
    if base.is_dir():
        for entry in os.scandir(base):
            if match := pattern.fullmatch(entry.name):
                found.append((match[1], int(match[2] or 0), Path(entry.path)))
    for *_, directory in sorted(found, reverse=True):
        yield from whole_folders(directory / layout.CHECKPOINTS)
        if (directory / layout.RESUME / layout.MANIFEST).is_file():
            yield directory / layout.RESUME


def _link(source: str, target: str) -> None:
    """Give a file a second name, so that the other run may remove its own; copy it where that cannot be."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _plain(value: Any) -> Any:
    """Return `value` as JSON can hold it; what JSON cannot hold becomes its text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)
