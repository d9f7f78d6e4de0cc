"""What the plain runs of the kill-point campaign train: all that a loop carries, and little else.

Dropout, momentum, a learning rate schedule, a shuffled order with a place in it, and draws from the generators of
Python, NumPy and torch. KILL_POINTS_PLANTED forgets one of it on purpose, for the campaign to find.
Not here: saving and resuming, which is what the runs themselves show.
"""

import os
import random
import time
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

STEPS = 40
SAVE_EVERY = 4
PAUSE = 0.03
"""Seconds that a step takes besides its work: kills should find the run in the middle of its steps, too."""
ROWS, BATCH = 100, 16
PLANTED = os.environ.get("KILL_POINTS_PLANTED", "")


class Shuffled:
    """Rows in an order that is drawn anew in each epoch."""

    def __init__(self) -> None:
        self.order = torch.randperm(ROWS)
        self.place = 0

    def take(self) -> torch.Tensor:
        """Return the next batch's rows; the last one of an epoch may be short."""
        if self.place >= ROWS:
            self.order, self.place = torch.randperm(ROWS), 0
        rows = self.order[self.place : self.place + BATCH]
        self.place += BATCH
        return rows

    def state_dict(self) -> dict[str, Any]:
        """Return the order and the place in it."""
        return {"order": self.order, "place": self.place}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on at the place."""
        self.order, self.place = state["order"], state["place"]


class Training:
    """A network, and what moves it."""

    def __init__(self) -> None:
        random.seed(3)
        np.random.seed(3)
        torch.manual_seed(3)
        torch.set_num_threads(1)
        self.x = torch.randn(ROWS, 32)
        self.y = self.x.square().sum(1, keepdim=True).sqrt()
        self.model = nn.Sequential(nn.Linear(32, 192), nn.BatchNorm1d(192), nn.Dropout(0.3), nn.Linear(192, 1))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.001, momentum=0.9)
        self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, STEPS)
        self.rows = Shuffled()

    def parts(self) -> dict[str, Any]:
        """Return what a checkpoint has to hold, without what was planted to be forgotten."""
        parts = {"model": self.model, "optimizer": self.optimizer, "scheduler": self.scheduler, "rows": self.rows}
        return {name: part for name, part in parts.items() if name != PLANTED}

    def resumed(self) -> None:
        """Forget the generators' states, where that is planted."""
        if PLANTED == "random":
            torch.manual_seed(4)

    def pause(self) -> None:
        """Make a step last."""
        time.sleep(PAUSE)

    def step(self) -> dict[str, float]:
        """Take one step and return what is worth logging."""
        self.pause()
        rows = self.rows.take()
        noise = random.gauss(0, 0.1) + float(np.random.normal(0, 0.1))
        loss = nn.functional.mse_loss(self.model(self.x[rows]), self.y[rows] + noise)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        rate = self.scheduler.get_last_lr()[0]
        self.scheduler.step()
        return {"loss": float(loss.detach()), "rate": float(rate), "noise": noise}

    def save(self, path: str) -> None:
        """Write the weights, the momenta, and what each generator would draw next."""
        state = self.optimizer.state_dict()["state"]
        momenta = {f"momentum.{number}": one["momentum_buffer"] for number, one in state.items()}
        drawn = torch.tensor(
            [random.random(), float(np.random.rand()), float(torch.rand(()))], dtype=torch.float64
        )
        save_file({**self.model.state_dict(), **momenta, "drawn": drawn}, path)
