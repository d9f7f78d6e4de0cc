"""Reports as HTML: self-contained, no script, everything that people wrote escaped. No drawing in here."""

import json
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from services.result.report.attempts import attempt_rows, repairs_of
from services.result.report.content import Content
from trainwright.contracts.attempt import AttemptDocument
from trainwright.contracts.task import TaskDocument

if TYPE_CHECKING:
    from jinja2 import Environment

MOST_SERIES_ROWS = 500
HIDDEN_PARAMETERS = frozenset({"files"})


def report_page(found: Content, drawings: Mapping[str, Any]) -> str:
    """Return the report of a completed task."""
    result = found.metadata.get("result")
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            title=found.title,
            description=found.description,
            model=found.model,
            task=found.task,
            metadata=found.metadata,
            result=result if isinstance(result, dict) else {},
            scores=found.scores,
            rows=list(found.scores.get("series", []))[:MOST_SERIES_ROWS],
            tracks=len(found.tracks),
            notes=found.notes,
            attempts=found.attempts,
            resumed=found.resumed,
            drawings=drawings,
            undrawn=found.metrics - len(found.losses) - len(drawings["others"]),
        )
    )


def ended_page(task: TaskDocument, attempts: Sequence[AttemptDocument] = ()) -> str:
    """Return the report of a task that left no model: how it ended, why, and how far it had come."""
    rows = attempt_rows(task.attempt, attempts, repairs_of(task, {}))
    last = next((one for one in reversed(attempts) if one.latest_metrics), None)
    template = _environment().get_template("ended.html.j2")
    return template.render(title=task.name, task=task, attempts=rows, last=last)


@lru_cache(maxsize=1)
def _environment() -> "Environment":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "figure": figure,
        "percent": percent,
        "moment": moment,
        "size": size,
        "as_json": as_json,
        "change": change,
        "signed": signed,
        "duration": duration,
    }
    return environment


def figure(value: Any) -> str:
    """Return a number in four digits, other things as they are."""
    if value is None:
        return "–"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.4g}" if abs(value) < 1e6 else f"{value:.4g}"


def percent(value: Any) -> str:
    """Return a share as a percentage."""
    return f"{100 * value:.2f}\u00a0%" if _is_number(value) else "–"


def change(value: Any, baseline: Any) -> float | None:
    """Return by which share a value lies above (+) or below (-) a baseline; None when that cannot be said."""
    if not _is_number(value) or not _is_number(baseline) or baseline == 0:
        return None
    return float(value / baseline - 1)


def signed(share: float) -> str:
    """Return a change as a percentage with its sign."""
    return f"{100 * share:+.1f}\u00a0%".replace("-", "\u2212")


def moment(value: Any) -> str:
    """Return a time in UTC to the second."""
    if value is None:
        return "–"
    if hasattr(value, "strftime"):
        return str(value.strftime("%Y-%m-%d %H:%M:%S UTC"))
    return str(value)[:19].replace("T", " ") + " UTC"


def duration(task: TaskDocument) -> str:
    """Return how long a task ran."""
    if task.started_at is None or task.ended_at is None:
        return "–"
    seconds = (task.ended_at - task.started_at).total_seconds()
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest} s"


def size(value: int) -> str:
    """Return an amount of bytes."""
    for unit, amount in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if value >= amount:
            return f"{value / amount:.1f} {unit}"
    return f"{value} B"


def as_json(value: Any) -> str:
    """Return a value as people read it in a table."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
