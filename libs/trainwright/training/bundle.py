"""The bundle: what a run leaves behind, so that a report can be rendered from it alone.

Every file of `bundle/`, plus `history.json` (the run's metrics, down-sampled) and `metadata.json` (what
ran, where, with what). Not here: uploading, the model registry.
"""

import math
import platform
import subprocess
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from trainwright.training import layout
from trainwright.training.spool import SpoolReader

MAX_POINTS = 1000
HISTORY = "history.json"
METADATA = "metadata.json"
_BUFFER_POINTS = 200_000
_PACKAGES = ("numpy", "torch", "pandas", "safetensors", "transformers", "trainwright")


def write_history(directory: Path) -> None:
    """Write `bundle/history.json`: `{"metrics": {name: [[step, value], …]}}`, at most 1,000 points each."""
    history = {
        name: [[step, _json_number(value)] for step, value in points] for name, points in _history(directory)
    }
    target = directory / layout.BUNDLE
    target.mkdir(parents=True, exist_ok=True)
    layout.write_json(target / HISTORY, {"metrics": history})


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


def _history(directory: Path) -> Iterator[tuple[str, list[tuple[int, float]]]]:
    series: dict[str, list[tuple[int, float]]] = {}
    reader = SpoolReader(directory / layout.SPOOL)
    try:
        while records := reader.read():
            for record in records:
                for name, value in record.values.items():
                    points = series.setdefault(name, [])
                    points.append((record.step, value))
                    if len(points) >= _BUFFER_POINTS:  # bounds memory; ends keep their shape
                        series[name] = downsample(points, _BUFFER_POINTS // 4)
    finally:
        reader.close()
    for name, points in series.items():
        yield name, downsample(points, MAX_POINTS)


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
