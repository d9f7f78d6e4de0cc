"""The forecaster on the shipped sales, small, in run folders like a worker's."""

import shutil
import time
from pathlib import Path
from typing import Any

import torch

from trainwright.recipes import get
from trainwright.recipes.forecast.config import ForecastConfig, ForecastData
from trainwright.recipes.forecast.data import Panel, load_panel
from trainwright.training import layout
from trainwright.training.checkpoints import manifest_of, whole_folders
from trainwright.training.context import Run

WALMART = {
    "path": str(Path(__file__).parents[1] / "examples/data/walmart_sales_weekly.csv"),
    "time": "Date",
    "target": "Weekly_Sales",
    "product": "Dept",
    "store": "Store",
}
CPU = torch.device("cpu")


class Watched(Run):
    """A run in a folder of its own; once it has logged `stop_at` it is asked to stop, as a worker asks."""

    def __init__(self, folder: Path, stop_at: int | None = None, after: "Watched | None" = None) -> None:
        folder.mkdir(exist_ok=True)
        resume = None
        if after is not None:
            newest = whole_folders(after.directory / layout.CHECKPOINTS)[0]
            manifest = manifest_of(newest)
            assert manifest is not None
            shutil.copytree(newest, folder / layout.RESUME)
            resume = {"step": manifest.step, "folder": layout.RESUME}
        layout.write_json(folder / layout.SPEC, {"attempt": 1, "resume": resume})
        super().__init__(folder, {}, in_worker=True, name="forecast")
        self.stop_at = stop_at
        self.logged: list[tuple[int, dict[str, float]]] = []

    def log(self, step: int, metrics: Any, total_steps: int | None = None) -> None:
        """Keep what is logged, too."""
        super().log(step, metrics, total_steps)
        self.logged.append((step, dict(metrics)))
        if step == self.stop_at:
            stop = {"kind": "pause", "deadline": 60, "term": 10, "signal": "SIGTERM"}
            layout.write_json(self.directory / layout.CONTROL, {"revision": 1, "stop": stop})
            until = time.monotonic() + 20
            while not self.should_stop():
                assert time.monotonic() < until, "the run never saw that it was asked to stop"
                time.sleep(0.005)


def configured(**values: Any) -> ForecastConfig:
    """Return a configuration that trains in no time."""
    small = {"mode": "store", "horizon": 4, "origins": 1, "max_steps": 3, "channels": 8, "batch_size": 8}
    return ForecastConfig.model_validate({**small, **values})


def walmart(config: ForecastConfig) -> Panel:
    """Return the shipped sales as the configuration asks for them."""
    return load_panel(ForecastData.model_validate(WALMART), config)


def trained(run: Run, config: ForecastConfig, data: dict[str, Any] | None = None) -> dict[str, Any]:
    """Train the recipe and return its summary."""
    with run:
        return get("forecast")().train(run, config, data or WALMART)
