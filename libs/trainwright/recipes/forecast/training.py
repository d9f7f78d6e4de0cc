"""Our loop: the batch is a function of (seed, step, fit), dropout is reseeded from the same, nothing is carried.

One fit for each evaluation, which knows only what lies before its origin, and one that knows everything are
trained side by side, step by step: so `max_steps` is what it says and the evaluation costs no second run.
Not here: data, scores, files.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from trainwright.recipes.forecast.config import ForecastConfig
from trainwright.recipes.forecast.data import Floats, Panel
from trainwright.recipes.forecast.network import TCN
from trainwright.recipes.forecast.windows import Batch, Windows, generator_of, seed_of

LOOKS = 20
"""How often during a training the held-out error is looked at: for people, nothing is chosen by it."""


class Run(Protocol):
    """What the loop needs of the run context."""

    def log(self, step: int, metrics: dict[str, float], total_steps: int | None = None) -> None: ...
    def should_stop(self) -> bool: ...


class Diverged(ArithmeticError):
    """The loss is no number any more."""


@dataclass(slots=True)
class Fit:
    """One network, what it may know, and its optimiser."""

    number: int
    windows: Windows
    network: nn.Module
    optimiser: torch.optim.Optimizer

    @torch.no_grad()
    def forecast(self) -> Floats:
        """Return what follows the end of what it may know, (series, horizon), in the data's own units."""
        self.network.eval()
        batch = self.windows.last()
        found = self.network(batch.window, batch.seen, batch.season, batch.season_seen)
        self.network.train()
        return self.windows.unscaled(found)


def input_size_of(config: ForecastConfig, panel: Panel) -> int:
    """Return the window's length: as asked, or a season and one and a half horizons."""
    if config.input_size is not None:
        return config.input_size
    first_evaluated = panel.length - config.origins * config.horizon
    wanted = panel.season_length + max(8, 3 * config.horizon // 2)
    return max(2, min(wanted, first_evaluated))


def origins_of(config: ForecastConfig, panel: Panel) -> list[int]:
    """Return the first period of each evaluation, oldest first."""
    return [panel.length - config.horizon * back for back in range(config.origins, 0, -1)]


def choose_device(config: ForecastConfig) -> torch.device:
    """Return where to train.

    Raises:
        RuntimeError: `cuda` was asked for and the run has no GPU.
    """
    available = torch.cuda.is_available()
    if config.device == "cuda" and not available:
        raise RuntimeError("device is 'cuda' and this run has no GPU; ask for one in resource_requirements")
    return torch.device("cuda" if available and config.device != "cpu" else "cpu")


def train(run: Run, config: ForecastConfig, panel: Panel, device: torch.device) -> list[Fit] | None:
    """Train a fit for each origin and, last, one on everything; None when the run was asked to stop.

    Raises:
        Diverged: A loss became NaN or infinite.
    """
    torch.set_num_threads(config.threads)
    if device.type == "cuda":
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False
    fits = [_fit(number, end, config, panel, device) for number, end in enumerate(_ends(config, panel))]
    look_every = max(1, config.max_steps // LOOKS)
    for step in range(1, config.max_steps + 1):
        if run.should_stop():
            return None
        rate = learning_rate(config, step)
        losses = [_step(fit, config, step, rate) for fit in fits]
        metrics = {
            "loss": losses[-1],
            "evaluation_fits_loss": float(np.mean(losses[:-1])),
            "learning_rate": rate,
        }
        if step % look_every == 0 or step == config.max_steps:
            metrics["held_out_wape"] = _held_out_wape(fits[:-1], panel, config.horizon)
        run.log(step, metrics, total_steps=config.max_steps)
    return fits


def learning_rate(config: ForecastConfig, step: int) -> float:
    """Return the learning rate of a step: a short linear rise, then a half cosine to 0."""
    warm_up = max(1, config.max_steps // 15)
    rise = min(1.0, step / warm_up)
    return config.learning_rate * rise * 0.5 * (1 + math.cos(math.pi * (step - 1) / config.max_steps))


def build_network(config: ForecastConfig, input_size: int) -> nn.Module:
    """Return an untrained network."""
    return TCN(input_size, config.horizon, config.channels, config.dropout)


def _ends(config: ForecastConfig, panel: Panel) -> list[int]:
    return [*origins_of(config, panel), panel.length]


def _fit(number: int, end: int, config: ForecastConfig, panel: Panel, device: torch.device) -> Fit:
    size = input_size_of(config, panel)
    windows = Windows(
        panel.values,
        end,
        input_size=size,
        horizon=config.horizon,
        season_length=panel.season_length,
        device=device,
    )
    torch.manual_seed(seed_of(config.seed))
    network = build_network(config, size).to(device)
    optimiser = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    return Fit(number, windows, network, optimiser)


def _step(fit: Fit, config: ForecastConfig, step: int, rate: float) -> float:
    """Take one optimiser step and return the loss, the mean absolute error of the scaled targets."""
    batch = fit.windows.sample(config.batch_size, generator_of(config.seed, step, fit.number))
    torch.manual_seed(seed_of(config.seed, step, fit.number))
    for group in fit.optimiser.param_groups:
        group["lr"] = rate
    fit.optimiser.zero_grad(set_to_none=True)
    weight = batch.target_seen.sum().clamp(min=1)
    loss = 0.0
    for part in _parts(batch, config):
        forecast = fit.network(part.window, part.seen, part.season, part.season_seen)
        error = ((forecast - part.target).abs() * part.target_seen).sum() / weight
        error.backward()
        loss += float(error.detach())
    if not math.isfinite(loss):
        raise Diverged(f"the loss became {loss} at step {step}; try a lower learning_rate")
    nn.utils.clip_grad_norm_(fit.network.parameters(), 1.0)
    fit.optimiser.step()
    return loss


def _parts(batch: Batch, config: ForecastConfig) -> Sequence[Batch]:
    size = config.micro_batch or config.batch_size
    return [batch.part(slice(start, start + size)) for start in range(0, config.batch_size, size)]


def _held_out_wape(fits: Sequence[Fit], panel: Panel, horizon: int) -> float:
    wrong = total = 0.0
    for fit in fits:
        actual = panel.values[:, fit.windows.end : fit.windows.end + horizon]
        wrong += float(np.nansum(np.abs(fit.forecast() - actual)))
        total += float(np.nansum(np.abs(actual)))
    return wrong / total if total > 0 else math.nan


def environment(config: ForecastConfig, device: torch.device) -> dict[str, Any]:
    """Return what decides the bits of a run besides its parameters."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return {"torch": torch.__version__, "threads": config.threads, "device": device.type, "device_name": name}
