"""Pure parts of the monitor: reducing a series for display, and knowing when a stream is over."""

import math
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from services.monitor.store import Watched
from trainwright.storage.series import AttemptState

SETTLED = 0.2
"""Seconds of silence after which a run whose last step is here has no more to say."""
UNSETTLED = 2.0
"""The same, where the last step is not known or not here."""
LONG_AGO = 10.0

Points = list[tuple[int, float]]


def reduced(points: Points, most: int) -> Points:
    """Return at most so many points that draw the same curve, the first and the last among them.

    MinMaxLTTB (Van Der Donckt et al., 2023): extremes by bucket, then largest triangles. Values that are no
    numbers are kept where they stand: a curve must not hide that it broke.
    """
    if len(points) <= most:
        return points
    if most < 4:
        return [points[0], *points[len(points) // 2 :][: most - 2], points[-1]]
    import numpy as np
    from tsdownsample import NaNMinMaxLTTBDownsampler

    steps = np.fromiter((step for step, _ in points), dtype=np.int64, count=len(points))
    values = np.fromiter((value for _, value in points), dtype=np.float64, count=len(points))
    values[~np.isfinite(values)] = np.nan
    last = len(points) - 1
    downsampler: Any = NaNMinMaxLTTBDownsampler
    chosen = downsampler().downsample(steps, values, n_out=most)
    between = sorted({int(index) for index in chosen} - {0, last})[: most - 2]
    return [points[0], *(points[index] for index in between), points[last]]


def is_over(task: Watched | None, attempts: Iterable[AttemptState], silent: float, now: datetime) -> bool:
    """Return whether nothing more is to come of a task whose stream has been silent for so many seconds."""
    if task is None or not task.is_final:
        return False
    if task.final_at is not None and (now - task.final_at).total_seconds() > LONG_AGO:
        return True
    return silent >= (SETTLED if _has_all(task, attempts) else UNSETTLED)


def _has_all(task: Watched, attempts: Iterable[AttemptState]) -> bool:
    last = {state.attempt: state.last_step for state in attempts}
    here = last.get(task.ended_attempt) if task.ended_attempt is not None else None
    return task.final_step is not None and here is not None and here >= task.final_step


def as_json(values: Mapping[str, float]) -> dict[str, float | str]:
    """Return values by name, those that JSON has no number for as text."""
    return {name: value if math.isfinite(value) else _IN_WORDS.get(value, "NaN") for name, value in values.items()}


_IN_WORDS = {math.inf: "Infinity", -math.inf: "-Infinity"}
