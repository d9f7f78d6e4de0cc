"""Rolling-origin evaluation beside seasonal naive's. Pure numpy.

WAPE is Σ|error| / Σ|actual| (of all series together). MASE (Hyndman, Koehler 2006) is the mean absolute error of a
series over the mean absolute change from one period to the next before the origin, averaged over series. Both are
means over origins. Periods without a row count in neither.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainwright.recipes.forecast.data import Floats, Panel

MASE_LAG = 1


@dataclass(frozen=True, slots=True)
class Evaluated:
    """One origin: forecasts of `horizon` periods, (series, horizon), beside what happened."""

    origin: int
    forecast: Floats
    naive: Floats
    actual: Floats


def seasonal_naive(known: Floats, horizon: int, season_length: int) -> Floats:
    """Return for each period ahead the newest known value of the same place in the season.

    Where that period had no row, the last row before it stands in; before the first row, the first.
    """
    filled = _carried(known)
    ahead = np.arange(horizon)
    places = known.shape[1] + ahead - season_length * (ahead // season_length + 1)
    return filled[:, places]


def evaluated(panel: Panel, origin: int, forecast: Floats) -> Evaluated:
    """Return a forecast beside the baseline's and what happened."""
    horizon = forecast.shape[1]
    naive = seasonal_naive(panel.values[:, :origin], horizon, panel.season_length)
    return Evaluated(origin, forecast, naive, panel.values[:, origin : origin + horizon])


def scores(panel: Panel, evaluations: Sequence[Evaluated]) -> dict[str, Any]:
    """Return the errors overall, by origin and by series; None where nothing can be measured."""
    dates = panel.grid.dates()
    by_origin = []
    for one in evaluations:
        row = {"origin": dates[one.origin - 1], "first": dates[one.origin]}
        row["last"] = dates[one.origin + one.forecast.shape[1] - 1]
        by_origin.append({**row, **_errors(panel, [one], range(len(panel.series)))})
    by_series = [
        {
            "series": series.name,
            "store": series.store,
            "product": series.product,
            **_errors(panel, evaluations, [n]),
        }
        for n, series in enumerate(panel.series)
    ]
    overall = _errors(panel, evaluations, range(len(panel.series)))
    horizon = evaluations[0].forecast.shape[1]
    return {
        **overall,
        "horizon": horizon,
        "frequency": panel.grid.frequency,
        "season_length": panel.season_length,
        "season_note": panel.season_note,
        "mase_lag": MASE_LAG,
        "evaluation": describe(panel, evaluations),
        "origins": by_origin,
        "series": by_series,
    }


def describe(panel: Panel, evaluations: Sequence[Evaluated]) -> str:
    """Return in words what was evaluated."""
    dates = panel.grid.dates()
    ends = [dates[one.origin - 1] for one in evaluations]
    horizon = evaluations[0].forecast.shape[1]
    unit = panel.grid.frequency + ("s" if horizon != 1 else "")
    if len(ends) == 1:
        return f"{horizon} {unit} ahead from one origin ({ends[0]})"
    return f"mean over {len(ends)} rolling origins ({ends[0]} to {ends[-1]}), {horizon} {unit} ahead from each"


def _errors(panel: Panel, evaluations: Sequence[Evaluated], rows: Sequence[int]) -> dict[str, Any]:
    chosen = list(rows)
    found: dict[str, Any] = {"points": sum(int((~np.isnan(one.actual[chosen])).sum()) for one in evaluations)}
    for prefix, name in (("", "forecast"), ("naive_", "naive")):
        mase = [_mase(panel, one, getattr(one, name), chosen) for one in evaluations]
        wape = [_wape(one.actual[chosen], getattr(one, name)[chosen]) for one in evaluations]
        found |= {f"{prefix}mase": _mean(mase), f"{prefix}wape": _mean(wape)}
    return found


def _wape(actual: Floats, forecast: Floats) -> float:
    total = float(np.nansum(np.abs(actual)))
    return float(np.nansum(np.abs(forecast - actual))) / total if total > 0 else math.nan


def _mase(panel: Panel, one: Evaluated, forecast: Floats, rows: Sequence[int]) -> float:
    found = []
    for row in rows:
        error = np.abs(forecast[row] - one.actual[row])
        known = panel.values[row, : one.origin]
        change = np.abs(known[MASE_LAG:] - known[:-MASE_LAG])
        change = change[~np.isnan(change)]
        if len(change) and change.mean() > 0 and not np.isnan(error).all():
            found.append(float(np.nanmean(error) / change.mean()))
    return float(np.mean(found)) if found else math.nan


def _mean(values: Sequence[float]) -> float | None:
    finite = [value for value in values if math.isfinite(value)]
    return float(np.mean(finite)) if finite else None


def _carried(values: Floats) -> Floats:
    """Return values with gaps filled by the value before them; at the beginning by the first after it."""
    seen = ~np.isnan(values)
    places = np.where(seen, np.arange(values.shape[1]), -1)
    places = np.maximum.accumulate(places, axis=1)
    first = np.argmax(seen, axis=1)[:, None]
    return np.take_along_axis(values, np.where(places < 0, first, places), axis=1)
