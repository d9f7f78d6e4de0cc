"""Windows of a panel: what the network sees and what it should say. Sampling is a function of (seed, step).

A forecast from `origin` sees periods before it only. Windows that reach over the beginning of a series, and
targets that reach over the end of what may be known, are padded and masked: a short history gives many more
windows that way.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from trainwright.recipes.forecast.data import Floats


@dataclass(frozen=True, slots=True)
class Batch:
    """Inputs and targets, scaled; masks are 1 where a value was observed and may be known."""

    window: Tensor
    seen: Tensor
    season: Tensor
    season_seen: Tensor
    target: Tensor
    target_seen: Tensor

    def part(self, rows: slice) -> "Batch":
        """Return some of the rows."""
        return Batch(*(getattr(self, name)[rows] for name in self.__slots__))


class Windows:
    """Windows of a panel as it was known before period `end`."""

    def __init__(
        self,
        values: Floats,
        end: int,
        *,
        input_size: int,
        horizon: int,
        season_length: int,
        device: torch.device,
        scales: tuple[Floats, Floats] | None = None,
    ) -> None:
        known = values[:, :end]
        observed = ~np.isnan(known)
        self.mean, self.std = scales or scale(known)
        scaled = np.where(observed, (known - self.mean) / self.std, 0.0)
        self.end = end
        self._input_size = input_size
        self._horizon = horizon
        self._values = torch.tensor(scaled, dtype=torch.float32, device=device)
        self._observed = torch.tensor(observed, dtype=torch.float32, device=device)
        self._device = device
        ahead = torch.arange(horizon, device=device)
        # The newest value of the same place in the season that lies before the origin.
        self._lag = season_length * (ahead // season_length + 1)
        first = np.argmax(observed, axis=1)
        self._earliest = torch.tensor(np.minimum(first + 2, end - 1), device=device)

    def sample(self, size: int, generator: torch.Generator) -> Batch:
        """Return a batch of windows from anywhere in the known part."""
        rows = torch.randint(len(self._values), (size,), generator=generator).to(self._device)
        share = torch.rand(size, generator=generator, dtype=torch.float64).to(self._device)
        earliest = self._earliest[rows]
        origins = earliest + (share * (self.end - earliest)).long()
        return self._cut(rows, origins)

    def last(self) -> Batch:
        """Return each series' window before `end`: what a forecast is made from."""
        rows = torch.arange(len(self._values), device=self._device)
        return self._cut(rows, torch.full_like(rows, self.end))

    def unscaled(self, forecast: Tensor) -> Floats:
        """Return a forecast of every series in the data's own units."""
        return np.asarray(forecast.cpu().numpy(), dtype=np.float64) * self.std + self.mean

    def _cut(self, rows: Tensor, origins: Tensor) -> Batch:
        back = origins[:, None] + torch.arange(-self._input_size, 0, device=self._device)
        ahead = origins[:, None] + torch.arange(self._horizon, device=self._device)
        return Batch(*self._at(rows, back), *self._at(rows, ahead - self._lag), *self._at(rows, ahead))

    def _at(self, rows: Tensor, periods: Tensor) -> tuple[Tensor, Tensor]:
        inside = (periods >= 0) & (periods < self.end)
        place = periods.clamp(0, self.end - 1)
        mask = self._observed[rows[:, None], place] * inside
        return self._values[rows[:, None], place] * mask, mask


def scale(known: Floats) -> tuple[Floats, Floats]:
    """Return each series' mean and standard deviation as columns; a constant series is left at its size."""
    mean = np.nanmean(known, axis=1, keepdims=True)
    std = np.nanstd(known, axis=1, keepdims=True)
    return mean, np.where(std > 0, std, 1.0)
