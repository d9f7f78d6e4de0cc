"""A trained forecaster as files, and back: `model.safetensors` (weights, last values) and `model.json`.

`load(folder).predict()` gives the forecast that the training ended with; with newer values it gives theirs.
Not here: pickles; scores.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from trainwright.recipes.forecast.config import ForecastConfig
from trainwright.recipes.forecast.data import Floats, Panel
from trainwright.recipes.forecast.training import Fit, build_network, input_size_of
from trainwright.recipes.forecast.windows import Windows

WEIGHTS = "model.safetensors"
DESCRIPTION = "model.json"
FORMAT = 1
_NETWORK = "network."


class Forecaster:
    """A trained network with the scale and the last values of each series it was trained on."""

    def __init__(
        self, description: Mapping[str, Any], network: nn.Module, tensors: Mapping[str, torch.Tensor]
    ) -> None:
        self.description = description
        self.series: list[str] = [one["name"] for one in description["series"]]
        self.horizon = int(description["horizon"])
        self._network = network.eval()
        self._tensors = tensors

    @torch.no_grad()
    def predict(self, history: Mapping[str, Sequence[float]] | None = None) -> dict[str, list[float]]:
        """Return the next `horizon` values of each series.

        `history` gives values in the data's units, oldest first, for some or all series, one a period, NaN where
        there is none; without it, the values that the training ended with.

        Raises:
            KeyError: A series was not trained on.
            ValueError: A history holds no value.
        """
        known = dict(zip(self.series, self._tensors["history"].numpy(), strict=True))
        wanted = {name: np.asarray(values, dtype=np.float64) for name, values in (history or known).items()}
        unknown = [name for name in wanted if name not in known]
        if unknown:
            raise KeyError(f"the series {unknown[0]!r} was not trained on; there are: {', '.join(self.series)}")
        return {name: self._one(name, values) for name, values in wanted.items()}

    def _one(self, name: str, values: Floats) -> list[float]:
        if not np.isfinite(values).any():
            raise ValueError(f"the history of {name!r} holds no value")
        row = self.series.index(name)
        windows = Windows(
            values[None, :],
            len(values),
            input_size=int(self.description["input_size"]),
            horizon=self.horizon,
            season_length=int(self.description["season_length"]),
            device=torch.device("cpu"),
            scales=(self._tensors["mean"][row].numpy()[None, :], self._tensors["std"][row].numpy()[None, :]),
        )
        batch = windows.last()
        found = self._network(batch.window, batch.seen, batch.season, batch.season_seen)
        return [float(value) for value in windows.unscaled(found)[0]]


def save(folder: Path, fit: Fit, config: ForecastConfig, panel: Panel, facts: Mapping[str, Any]) -> None:
    """Write a fit, and what is needed to use it, to a folder; `facts` are kept beside."""
    input_size = input_size_of(config, panel)
    kept = max(input_size, panel.season_length)
    tensors = {_NETWORK + name: tensor.cpu().contiguous() for name, tensor in fit.network.state_dict().items()}
    tensors |= {
        "mean": torch.from_numpy(fit.windows.mean.copy()),
        "std": torch.from_numpy(fit.windows.std.copy()),
        "history": torch.from_numpy(panel.values[:, -kept:].copy()),
    }
    save_file(tensors, folder / WEIGHTS)
    description = {
        "format": FORMAT,
        "recipe": "forecast",
        "config": config.model_dump(mode="json"),
        "input_size": input_size,
        "horizon": config.horizon,
        "frequency": panel.grid.frequency,
        "season_length": panel.season_length,
        "series": [{"name": one.name, "store": one.store, "product": one.product} for one in panel.series],
        "last_period": panel.grid.dates()[-1],
        **facts,
    }
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=1, ensure_ascii=False), encoding="utf-8")


def load(folder: Path) -> Forecaster:
    """Rebuild a forecaster from its files.

    Raises:
        ValueError: The files are of a later format.
    """
    description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    if description["format"] != FORMAT:
        raise ValueError(f"{folder / DESCRIPTION} has format {description['format']}; this version reads {FORMAT}")
    tensors = load_file(folder / WEIGHTS)
    config = ForecastConfig.model_validate(description["config"])
    network = build_network(config, int(description["input_size"]))
    network.load_state_dict({n.removeprefix(_NETWORK): t for n, t in tensors.items() if n.startswith(_NETWORK)})
    return Forecaster(description, network, {n: t for n, t in tensors.items() if not n.startswith(_NETWORK)})
