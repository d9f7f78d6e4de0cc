"""A temporal convolutional network for windows of a series (Bai, Kolter, Koltun 2018, arXiv:1803.01271).

Dilated causal convolutions in residual blocks read the window; a small head adds a correction to the value one
season before each forecast period. Not here: scaling of series, sampling, training.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """Two causal convolutions with the input added."""

    def __init__(self, inputs: int, channels: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.padding = dilation
        self.first = nn.Conv1d(inputs, channels, kernel_size=2, dilation=dilation)
        self.second = nn.Conv1d(channels, channels, kernel_size=2, dilation=dilation)
        self.skip = nn.Conv1d(inputs, channels, kernel_size=1) if inputs != channels else nn.Identity()
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, inputs, time) to (batch, channels, time)."""
        h = F.dropout(F.gelu(self.first(F.pad(x, (self.padding, 0)))), self.dropout, self.training)
        h = F.dropout(F.gelu(self.second(F.pad(h, (self.padding, 0)))), self.dropout, self.training)
        return F.gelu(h + self.skip(x))


class TCN(nn.Module):
    """Forecast `horizon` values from a window and the values one season before each of them.

    All inputs are scaled; masks are 1 where a value was observed. Each window is centred on its own mean, so the
    network sees shapes and not levels.
    """

    def __init__(self, input_size: int, horizon: int, channels: int, dropout: float) -> None:
        super().__init__()
        dilations = [2**n for n in range(max(1, (input_size - 1).bit_length() - 1))]
        sizes = [2, *[channels] * len(dilations)]
        self.blocks = nn.Sequential(
            *[Block(a, b, d, dropout) for a, b, d in zip(sizes, sizes[1:], dilations, strict=False)]
        )
        self.context = nn.Linear(channels, 2 * channels)
        self.period = nn.Parameter(torch.zeros(horizon, 2 * channels))
        self.season = nn.Linear(2, 2 * channels)
        self.head = nn.Sequential(nn.GELU(), nn.Dropout(dropout), nn.Linear(2 * channels, 1))
        nn.init.normal_(self.period, std=0.3)
        # The first forecast is the seasonal one: training starts from the baseline.
        last = self.head[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, window: Tensor, seen: Tensor, season: Tensor, season_seen: Tensor) -> Tensor:
        """Map (batch, input_size) twice and (batch, horizon) twice to (batch, horizon)."""
        level = (window * seen).sum(1, keepdim=True) / seen.sum(1, keepdim=True).clamp(min=1)
        shape = (window - level) * seen
        before = (season - level) * season_seen
        context = self.context(self.blocks(torch.stack((shape, seen), 1))[..., -1])
        hints = self.season(torch.stack((before, season_seen), -1))
        correction: Tensor = self.head(hints + context[:, None] + self.period)[..., 0]
        return level + before + correction
