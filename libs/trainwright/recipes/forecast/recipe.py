"""The recipe `forecast`: data in, networks trained, errors beside the baseline's, files out.

It leaves `model.safetensors`, `model.json`, `metrics.json`, `forecasts.csv` (evaluations), `future.csv` (what
comes after the data) and `series.json` (the values themselves, for a report's plots).
"""

import csv
import json
import math
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from trainwright.recipes.forecast import bundle
from trainwright.recipes.forecast.config import ForecastConfig, ForecastData
from trainwright.recipes.forecast.data import Panel, load_panel
from trainwright.recipes.forecast.evaluation import Evaluated, evaluated, scores, seasonal_naive
from trainwright.recipes.forecast.identity import identity, training_description
from trainwright.recipes.forecast.training import Fit, choose_device, environment, train

PLOTTED_SERIES = 200
NAMED = 200
"""Identifiers that a summary lists; the model's own files have all."""


class ForecastRecipe:
    """Forecast sales by product and store."""

    Config: ClassVar[type[ForecastConfig]] = ForecastConfig

    def train(self, run: Any, config: ForecastConfig, data: dict[str, Any] | None) -> dict[str, Any]:
        """Train, evaluate, write the files, and return the summary that a model version is registered with.

        Raises:
            DataError: The data does not do.
            Diverged: A loss or a gradient became NaN or infinite.
            ValueError: The checkpoint to go on from is of another seed or batch_size.
        """
        began = time.monotonic()
        panel = load_panel(ForecastData.model_validate(data or {}), config)
        parameters = config.model_dump(mode="json")
        about = {
            "identity": identity(parameters, panel.summary),
            "description": training_description(parameters, panel.summary),
        }
        device = choose_device(config)
        _say(
            f"{about['description']}; {panel.summary['series']} series of {panel.length} periods on {device.type}"
        )
        fits = train(run, config, panel, device)
        if fits is None:
            return {**about, "stopped": True}
        evaluations = [evaluated(panel, fit.windows.end, fit.forecast()) for fit in fits.evaluated]
        found = scores(panel, evaluations)
        facts = {
            **about,
            "data": _in_short(panel.summary),
            "environment": environment(config, device),
            "journal": fits.loop.journal,
        }
        bundle.save(run.output, fits.final, config, panel, facts)
        _write_results(run.output, panel, evaluations, fits.final, found)
        _say(_sentence(found))
        return {**facts, "metrics": _headline(found), "seconds": round(time.monotonic() - began, 2)}


def _headline(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures of a model version: the errors, the baseline's by the same names, what they are of."""
    return {
        "mase": found["mase"],
        "wape": found["wape"],
        "baseline": {"name": "seasonal naive", "mase": found["naive_mase"], "wape": found["naive_wape"]},
        "evaluation": found["evaluation"],
    }


def _in_short(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return the data's summary with long lists of identifiers cut."""
    return {name: value[:NAMED] if isinstance(value, list) else value for name, value in summary.items()}


def _sentence(found: Mapping[str, Any]) -> str:
    """Return the errors for the log."""
    parts = []
    for name in ("wape", "mase"):
        own, naive = (
            f"{value:.4g}" if (value := found[key]) is not None else "–" for key in (name, f"naive_{name}")
        )
        parts.append(f"{name.upper()} {own} (seasonal naive {naive})")
    return f"{', '.join(parts)}, {found['evaluation']}"


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _write_results(
    folder: Path, panel: Panel, evaluations: list[Evaluated], final: Fit, found: Mapping[str, Any]
) -> None:
    (folder / "metrics.json").write_text(json.dumps(found, indent=1, ensure_ascii=False), encoding="utf-8")
    horizon = int(found["horizon"])
    dates = panel.grid.dates(beyond=horizon)
    future = final.forecast()
    naive = seasonal_naive(panel.values, horizon, panel.season_length)
    header = ["series", "store", "product", "origin", "date", "actual", "forecast", "naive"]
    _write_csv(folder / "forecasts.csv", header, _evaluation_rows(panel, evaluations, dates))
    rows = (
        [one.name, one.store, one.product, dates[panel.length + h], _number(future[n, h]), _number(naive[n, h])]
        for n, one in enumerate(panel.series)
        for h in range(horizon)
    )
    _write_csv(folder / "future.csv", ["series", "store", "product", "date", "forecast", "naive"], rows)
    _write_series(folder / "series.json", panel, dates)


def _evaluation_rows(panel: Panel, evaluations: list[Evaluated], dates: list[str]) -> Iterable[list[Any]]:
    for one in evaluations:
        for n, series in enumerate(panel.series):
            for h in range(one.forecast.shape[1]):
                values = [_number(values[n, h]) for values in (one.actual, one.forecast, one.naive)]
                where = [dates[one.origin - 1], dates[one.origin + h]]
                yield [series.name, series.store, series.product, *where, *values]


def _write_series(path: Path, panel: Panel, dates: list[str]) -> None:
    shown = panel.series[:PLOTTED_SERIES]
    values = {one.name: [_number(value) for value in row] for one, row in zip(shown, panel.values, strict=False)}
    content = {"dates": dates[: panel.length], "series": values}
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def _write_csv(path: Path, header: list[str], rows: Iterable[list[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(["" if cell is None else cell for cell in row] for row in rows)


def _number(value: np.float64) -> float | None:
    return None if math.isnan(value) else round(float(value), 6)
