"""Train the forecaster by our loop (trainwright.training.loop): all is a function of (seed, step, fit).

One fit for each evaluation, which knows only what lies before its origin, and one that knows everything are
trained side by side, step by step: so `max_steps` is what it says and the evaluation costs no second run. All
gradients of a step come first, then all optimisers take it: a step that finds no memory is redone as a whole.
Not here: data, scores, files.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from trainwright.recipes.forecast.config import ForecastConfig
from trainwright.recipes.forecast.data import Floats, Panel
from trainwright.recipes.forecast.network import TCN
from trainwright.recipes.forecast.windows import Windows
from trainwright.training.context import Run
from trainwright.training.loop import Diverged, Loop, generator_of, seed_of

LOOKS = 20
"""How often during a training the held-out error is looked at: for people, nothing is chosen by it."""


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


@dataclass(frozen=True, slots=True)
class Fits:
    """All networks of a training, a part of its checkpoints, and the loop that trains them."""

    all: list[Fit]
    loop: Loop

    @property
    def evaluated(self) -> list[Fit]:
        """Return those that are judged by what they do not know, oldest origin first."""
        return self.all[:-1]

    @property
    def final(self) -> Fit:
        """Return the one that knows everything."""
        return self.all[-1]

    def state_dict(self) -> dict[str, Any]:
        """Return the weights and the optimiser's state of each."""
        return {
            str(fit.number): {"network": fit.network.state_dict(), "optimiser": fit.optimiser.state_dict()}
            for fit in self.all
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        for fit in self.all:
            fit.network.load_state_dict(state[str(fit.number)]["network"])
            fit.optimiser.load_state_dict(state[str(fit.number)]["optimiser"])


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


def loop_of(config: ForecastConfig, device: torch.device) -> Loop:
    """Return the loop of a training: what a repair may change, and what decides the bits, are in its journal."""
    given: dict[str, Any] = {"learning_rate": config.learning_rate, **environment(config, device)}
    return Loop(seed=config.seed, batch=config.batch_size, micro_batch=config.micro_batch, **given)


def train(
    run: Run, config: ForecastConfig, panel: Panel, device: torch.device, loop: Loop | None = None
) -> "Fits | None":
    """Train a fit for each origin and, last, one on everything; None when the run was asked to stop.

    Goes on from the run's checkpoint, if it has one.

    Raises:
        Diverged: A loss or a gradient became NaN or infinite.
    """
    torch.set_num_threads(config.threads)
    if device.type == "cuda":
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False
    loop = loop or loop_of(config, device)
    all_fits = [_fit(number, end, config, panel, device) for number, end in enumerate(_ends(config, panel))]
    fits = Fits(all_fits, loop)
    look_every = max(1, config.max_steps // LOOKS)
    for step in run.steps(
        config.max_steps,
        checkpoint_every=config.checkpoint_every,
        checkpoint_seconds=config.checkpoint_seconds,
        fits=fits,
        loop=loop,
    ):
        rate = learning_rate(config, step, loop.value("learning_rate", step))
        losses = _step(fits, config, step, rate)
        metrics = {
            "loss": losses[-1],
            "evaluation_fits_loss": float(np.mean(losses[:-1])),
            "learning_rate": rate,
        }
        if step % look_every == 0 or step == config.max_steps:
            metrics["held_out_wape"] = _held_out_wape(fits.evaluated, panel, config.horizon)
        run.log(step, metrics, total_steps=config.max_steps)
    return None if run.stopping else fits


def learning_rate(config: ForecastConfig, step: int, highest: float) -> float:
    """Return the learning rate of a step: a short linear rise to the highest, then a half cosine to 0."""
    warm_up = max(1, config.max_steps // 15)
    rise = min(1.0, step / warm_up)
    return highest * rise * 0.5 * (1 + math.cos(math.pi * (step - 1) / config.max_steps))


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


def _step(fits: "Fits", config: ForecastConfig, step: int, rate: float) -> list[float]:
    """Take one step with every fit and return their losses, mean absolute errors of the scaled targets."""
    networks = [fit.network for fit in fits.all]

    def compute(parts: list[slice]) -> list[float]:
        return [_gradients(fit, config, step, fits.loop, parts) for fit in fits.all]

    losses = fits.loop.gradients(step, networks, compute)
    norms = [float(nn.utils.clip_grad_norm_(network.parameters(), 1.0)) for network in networks]
    for loss, norm in zip(losses, norms, strict=True):
        if not math.isfinite(loss):
            raise Diverged("the loss", loss, step)
        if not math.isfinite(norm):
            raise Diverged("the size of the gradient", norm, step)
    for fit in fits.all:
        for group in fit.optimiser.param_groups:
            group["lr"] = rate
        fit.optimiser.step()
    return losses


def _gradients(fit: Fit, config: ForecastConfig, step: int, loop: Loop, parts: Sequence[slice]) -> float:
    """Add up one fit's gradients of a step and return its loss."""
    batch = fit.windows.sample(config.batch_size, generator_of(config.seed, step, fit.number))
    loop.reseed(step, fit.number)
    weight = batch.target_seen.sum().clamp(min=1)
    loss = 0.0
    for rows in parts:
        part = batch.part(rows)
        forecast = fit.network(part.window, part.seen, part.season, part.season_seen)
        error = ((forecast - part.target).abs() * part.target_seen).sum() / weight
        error.backward()
        loss += float(error.detach())
    return loss


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
    return {"torch": str(torch.__version__), "threads": config.threads, "device": device.type, "device_name": name}
