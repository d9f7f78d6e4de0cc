"""What a report says, gathered from a job and the files of a bundle. Those are the user's: nothing is believed.

A file that is absent, too large, or not what it should be leaves its section out and a note in.
Not here: drawing, HTML.
"""

import csv
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from services.result.report.attempts import AttemptRow, attempt_rows, repairs_of, resumed_at
from trainwright.contracts.attempt import AttemptDocument
from trainwright.contracts.result import ModelVersion
from trainwright.contracts.task import TaskDocument

Point = tuple[float, float]
MOST_CURVES = 60
MOST_ROWS = 1_000_000


@dataclass(slots=True)
class Track:
    """One series: what happened, what was forecast from each origin, what comes next."""

    name: str
    dates: list[datetime] = field(default_factory=list)
    actual: list[float] = field(default_factory=list)
    by_origin: dict[str, list[tuple[datetime, float, float]]] = field(default_factory=dict)
    """Origin → (date, forecast, baseline)."""
    future: list[tuple[datetime, float, float]] = field(default_factory=list)


@dataclass(slots=True)
class Content:
    """Everything that a report says."""

    title: str
    description: str
    model: ModelVersion
    task: TaskDocument | None
    metadata: Mapping[str, Any]
    curves: dict[str, list[Point]] = field(default_factory=dict)
    metrics: int = 0
    """How many the run has reported; of very many not all have a curve here."""
    scores: Mapping[str, Any] = field(default_factory=dict)
    tracks: list[Track] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    attempts: list[AttemptRow] = field(default_factory=list)
    """What happened, when there was more than one attempt or something to repair."""
    resumed: list[int] = field(default_factory=list)
    """Steps that later attempts went on from."""

    @property
    def losses(self) -> dict[str, list[Point]]:
        """Return the curves of losses, `loss` itself first."""
        names = [name for name in self.curves if "loss" in name.lower()]
        return {name: self.curves[name] for name in sorted(names, key=lambda name: (name != "loss", name))[:6]}

    @property
    def other_curves(self) -> dict[str, list[Point]]:
        """Return the curves of everything else."""
        return {name: points for name, points in self.curves.items() if name not in self.losses}


def gather(job: Mapping[str, Any], bundle: Path) -> Content:
    """Return what a report says."""
    model = ModelVersion.model_validate(job["model"])
    task = TaskDocument.model_validate(job["task"]) if job.get("task") else None
    metadata = job.get("metadata") if isinstance(job.get("metadata"), dict) else {}
    found = Content(model.task_name, model.description, model, task, metadata or {})
    attempts = [AttemptDocument.model_validate(one) for one in job.get("attempts") or []]
    found.attempts = attempt_rows(model.attempt, attempts, repairs_of(task, found.metadata))
    found.resumed = resumed_at(attempts)
    for read in (_read_history, _read_scores, _read_tracks):
        try:
            read(found, bundle)
        except (ValueError, KeyError, TypeError, AttributeError, csv.Error, RecursionError) as error:
            what = read.__name__.removeprefix("_read_")
            found.notes.append(
                f"The {what} of this run cannot be shown: {type(error).__name__}: {str(error)[:200]}"
            )
    return found


def number(value: Any) -> float:
    """Return a number, NaN for what is none; the texts that stand for what is not finite are understood."""
    if isinstance(value, bool) or value is None:
        return math.nan
    if isinstance(value, int | float | str):
        try:
            return float(value)
        except (ValueError, OverflowError):
            return math.nan
    return math.nan


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _read_history(found: Content, bundle: Path) -> None:
    reported = (_json(bundle / "history.json") or {}).get("metrics", {})
    for name, points in list(reported.items())[:MOST_CURVES]:
        curve = [(number(step), number(value)) for step, value in points]
        found.curves[str(name)] = [point for point in curve if math.isfinite(point[0])]
    found.metrics = len(reported)


def _read_scores(found: Content, bundle: Path) -> None:
    if found.model.recipe != "forecast":
        return
    scores = _json(bundle / "metrics.json")
    if isinstance(scores, dict):
        rows = scores.get("series")
        scores["series"] = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
        origins = scores.get("origins")
        scores["origins"] = [row for row in origins if isinstance(row, dict)] if isinstance(origins, list) else []
        found.scores = scores


def _read_tracks(found: Content, bundle: Path) -> None:
    if found.model.recipe != "forecast":
        return
    values = _json(bundle / "series.json")
    if values is None:
        return
    dates = [_date(text) for text in values["dates"]]
    tracks = {
        str(name): Track(str(name), dates, [number(v) for v in row]) for name, row in values["series"].items()
    }
    for row in _rows(bundle / "forecasts.csv"):
        if (track := tracks.get(row["series"])) is not None:
            point = (_date(row["date"]), number(row["forecast"]), number(row["naive"]))
            track.by_origin.setdefault(row["origin"], []).append(point)
    for row in _rows(bundle / "future.csv"):
        if (track := tracks.get(row["series"])) is not None:
            track.future.append((_date(row["date"]), number(row["forecast"]), number(row["naive"])))
    found.tracks = sorted(tracks.values(), key=_volume, reverse=True)


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [row for row, _ in zip(csv.DictReader(file), range(MOST_ROWS), strict=False)]


def _date(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _volume(track: Track) -> float:
    return sum(abs(value) for value in track.actual if math.isfinite(value))
