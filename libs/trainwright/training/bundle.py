"""The bundle: what a run leaves behind, so that a report can be rendered from it alone.

Every file of `bundle/`, plus `history.json` (the run's metrics, down-sampled) and `metadata.json` (what
ran, where, with what). Not here: uploading, the model registry.
"""

import math
import platform
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from trainwright.training import layout
from trainwright.training.spool import Record, SpoolReader

MAX_POINTS = 1000
HISTORY = "history.json"
METADATA = "metadata.json"
_BUFFER_POINTS = 20_000
_PACKAGES = ("numpy", "torch", "pandas", "safetensors", "transformers", "trainwright")


class History:
    """Collect a run's points of all its attempts within bounded memory; what was read is not read again."""

    def __init__(self, directory: Path) -> None:
        self._reader = SpoolReader(directory / layout.SPOOL)
        self._ahead: list[Record] = []
        self._series = _earlier(directory)

    def read(self, last_seq: int | None = None) -> None:
        """Take what was logged since, up to record `last_seq`, or all of it."""
        while records := self._ahead or self._reader.read():
            self._ahead = [] if last_seq is None else [one for one in records if one.seq > last_seq]
            for record in records[: len(records) - len(self._ahead)]:
                for name, value in record.values.items():
                    points = self._series.setdefault(name, [])
                    points.append((record.step, value))
                    if len(points) >= _BUFFER_POINTS:  # bounds memory; ends keep their shape
                        self._series[name] = downsample(points, _BUFFER_POINTS // 4)
            if self._ahead:
                break

    def document(self) -> dict[str, Any]:
        """Return `{"metrics": {name: [[step, value], …]}}`, at most 1,000 points each."""
        return {
            "metrics": {
                name: [[step, _json_number(value)] for step, value in downsample(points, MAX_POINTS)]
                for name, points in self._series.items()
            }
        }

    def close(self) -> None:
        """Close the spool's segment, if one is open."""
        self._reader.close()


def write_history(directory: Path) -> None:
    """Write `bundle/history.json`: the metrics of this attempt and, up to where it went on, those before it."""
    history = History(directory)
    try:
        history.read()
    finally:
        history.close()
    target = directory / layout.BUNDLE
    target.mkdir(parents=True, exist_ok=True)
    layout.write_json(target / HISTORY, history.document())


def write_metadata(directory: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Write and return `bundle/metadata.json`: `facts`, the environment, and a recipe's own `result`, if
    any.
    """
    found: dict[str, Any] = {**facts, "environment": environment()}
    result = layout.read_json(directory / layout.RESULT)
    if result is not None:
        found["result"] = result
    target = directory / layout.BUNDLE
    target.mkdir(parents=True, exist_ok=True)
    layout.write_json(target / METADATA, found)
    return found


def bundle_files(directory: Path) -> dict[str, Path]:
    """Return every regular file under `bundle/` by its relative name; links are left out."""
    root = directory / layout.BUNDLE
    return {
        path.relative_to(root).as_posix(): path
        for path in sorted(root.rglob("*"))
        if path.is_file() and not path.is_symlink() and not layout.is_temporary(path)
    }


def environment() -> dict[str, Any]:
    """Return what a run needs to be repeated: versions and platform; no secrets."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "packages": {name: version for name in _PACKAGES if (version := _version(name)) is not None},
    }


def _earlier(directory: Path) -> dict[str, list[tuple[int, float]]]:
    """Return the points of the attempts before, up to the step that this one goes on from."""
    resume = (layout.read_json(directory / layout.SPEC) or {}).get("resume")
    if resume is None:
        return {}
    saved = layout.read_json(directory / str(resume["folder"]) / HISTORY) or {}
    try:
        return {
            str(name): [(int(step), float(value)) for step, value in points if step <= resume["step"]]
            for name, points in saved.get("metrics", {}).items()
        }
    except (AttributeError, TypeError, ValueError):  # a script wrote a file of its own there
        return {}


def downsample(points: list[tuple[int, float]], limit: int) -> list[tuple[int, float]]:
    """Return at most `limit` of the points, first and last among them, chosen by MinMaxLTTB so that spikes
    stay.

    Points that are not finite are kept as long as there is room: they are what one looks for in a curve.
    """
    if len(points) <= limit:
        return points
    odd = [index for index, (_, value) in enumerate(points) if not math.isfinite(value)]
    odd = odd[:: max(1, math.ceil(len(odd) / (limit // 4)))]
    finite = [index for index, (_, value) in enumerate(points) if math.isfinite(value)]
    room = limit - len(odd)
    if len(finite) > room:
        import numpy as np
        from tsdownsample import MinMaxLTTBDownsampler

        values = np.array([points[index][1] for index in finite], dtype=np.float64)
        downsampler: Any = MinMaxLTTBDownsampler  # the package has no annotations
        chosen = downsampler().downsample(values, n_out=room)
        finite = [finite[int(place)] for place in chosen]
    return [points[index] for index in sorted({*odd, *finite})]


def _json_number(value: float) -> float | str:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def git_commit(folder: Path) -> str | None:
    """Return the commit that `folder` is checked out at; None outside of a repository, or without git."""
    if not any((parent / ".git").exists() for parent in (folder, *folder.parents)):
        return None
    try:
        answer = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None if answer.returncode == 0 else None
